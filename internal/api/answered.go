package api

import (
	"errors"

	"google.golang.org/grpc/status"
)

// OfCall reports whether an error is what a call failed with, on either side. Of any
// other, a command that makes calls has more to say than ErrorOf.
func OfCall(err error) bool {
	var own *Error
	if errors.As(err, &own) {
		return true
	}
	_, ok := status.FromError(err)
	return ok && err != nil
}
