package api

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// serve starts a server on a socket of its own.
func serve(t *testing.T, config ServerConfig) *Server {
	t.Helper()
	if config.Socket == "" {
		config.Socket = filepath.Join(t.TempDir(), "agent.sock")
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	server, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server
}

func dial(t *testing.T, server *Server) *Client {
	t.Helper()
	client, err := Dial(server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// fakeAgent answers GetStatus as it is told.
type fakeAgent struct {
	ringfencev1.UnimplementedAgentServer
	status func(context.Context) (*ringfencev1.AgentStatus, error)
}

func (a *fakeAgent) GetStatus(ctx context.Context, _ *ringfencev1.GetStatusRequest) (*ringfencev1.AgentStatus, error) {
	return a.status(ctx)
}

func TestErrorsOfCalls(t *testing.T) {
	var fail error
	server := serve(t, ServerConfig{Services: Services{Agent: &fakeAgent{status: func(context.Context) (*ringfencev1.AgentStatus, error) {
		if fail == nil {
			panic("on purpose")
		}
		return nil, fail
	}}}})
	client := dial(t, server)
	for _, test := range []struct {
		name string
		err  error
		want Error
	}{
		{"own", NotFound("look", "no %s", "box"), Error{CodeNotFound, "no box", "look"}},
		{"own without hint", &Error{Code: CodeAborted, Message: "changed"}, Error{CodeAborted, "changed", hintOf(CodeAborted)}},
		{"any", errors.New("secret path"), Error{CodeInternal, "fault 1 in GetStatus", hintFault}},
		{"panic", nil, Error{CodeInternal, "fault 2 in GetStatus", hintFault}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fail = test.err
			_, err := client.Agent.GetStatus(t.Context(), &ringfencev1.GetStatusRequest{})
			if got := ErrorOf(err); got == nil || *got != test.want {
				t.Errorf("error = %+v, want %+v", got, test.want)
			}
		})
	}
}
