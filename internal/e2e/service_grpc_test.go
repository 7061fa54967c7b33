package e2e

import (
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// serveGRPC serves gRPC's health check, without TLS, at every address of the internet's,
// and returns its port.
func (f *fixture) serveGRPC() int {
	f.t.Helper()
	const port = 50051
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	var listener net.Listener
	if err := f.env.DoInternet(func() (err error) {
		listener, err = net.Listen("tcp", "[::]:50051")
		return err
	}); err != nil {
		f.t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	f.t.Cleanup(server.Stop)
	return port
}
