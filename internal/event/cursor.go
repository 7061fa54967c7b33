package event

import (
	"fmt"
	"strconv"
	"strings"
)

// Cursor is a place in a journal, just after a record. The zero value is none.
type Cursor struct {
	Epoch  uint64 // of the journal: each has another one
	Number uint64 // of the record, from 1 on
}

// TokenError is a token or cursor that is none.
type TokenError struct{ Text string }

// Error says what it was.
func (e *TokenError) Error() string { return fmt.Sprintf("%q is no place in the records", e.Text) }

// String returns the cursor as a token.
func (c Cursor) String() string { return fmt.Sprintf("%016x-%d", c.Epoch, c.Number) }

// ParseCursor returns the cursor of a token. An error is a *TokenError.
func ParseCursor(text string) (Cursor, error) {
	epoch, number, _ := strings.Cut(text, "-")
	var c Cursor
	var err1, err2 error
	c.Epoch, err1 = strconv.ParseUint(epoch, 16, 64)
	c.Number, err2 = strconv.ParseUint(number, 10, 64)
	if err1 != nil || err2 != nil || c.String() != text {
		return Cursor{}, &TokenError{text}
	}
	return c, nil
}
