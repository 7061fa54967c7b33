package daemon

import (
	"context"
	"log/slog"

	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
)

// levels is a log whose messages about one sandbox (those with the attribute
// "sandbox") are as many as its log_level asks for.
type levels struct {
	slog.Handler
	fleet *fleet
	name  string // of the sandbox that all messages are about; empty: see each
}

func newLevels(h slog.Handler, f *fleet) *levels { return &levels{Handler: h, fleet: f} }

// Enabled implements slog.Handler: only the message tells which sandbox it is about.
func (*levels) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *levels) Handle(ctx context.Context, r slog.Record) error {
	name := h.name
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "sandbox" {
			name = a.Value.String()
		}
		return true
	})
	level, own := h.fleet.logLevel(name)
	if own && r.Level < level || !own && !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *levels) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == "sandbox" {
			next.name = a.Value.String()
		}
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *levels) WithGroup(name string) slog.Handler {
	next := *h
	next.Handler = h.Handler.WithGroup(name)
	return &next
}

// logLevel returns the level of a sandbox that has one of its own.
func (f *fleet) logLevel(name string) (slog.Level, bool) {
	if name == "" {
		return 0, false
	}
	b := f.find(name)
	if b == nil {
		return 0, false
	}
	message, _, _ := f.look(b)
	return levelOf(message.GetSpec())
}

func levelOf(spec *pb.SandboxSpec) (slog.Level, bool) {
	var level slog.Level
	if spec.GetLogLevel() == "" || level.UnmarshalText([]byte(spec.GetLogLevel())) != nil {
		return 0, false
	}
	return level, true
}
