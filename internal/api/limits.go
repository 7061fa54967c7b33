package api

import "google.golang.org/protobuf/proto"

// Check returns an *Error where a request is not within its limits.
func Check(_ proto.Message) error { return nil }
