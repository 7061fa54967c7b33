package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Message is any message of the API. With what follows, other rooms can keep, copy
// and show messages and need no protobuf.
type Message = proto.Message

// Encode returns a message's bytes, the same for the same message and build.
func Encode(message Message) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", message.ProtoReflect().Descriptor().Name(), err)
	}
	return data, nil
}

// Decode reads what Encode wrote, also that of an older or newer version.
func Decode(data []byte, into Message) error {
	if err := proto.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode %s: %w", into.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// Clone returns a deep copy.
func Clone[M Message](message M) M { return proto.CloneOf(message) }

// Equal reports whether two messages say the same.
func Equal(a, b Message) bool { return proto.Equal(a, b) }

// JSON returns a message as a person reads it in the protocol's files: with their
// names of fields, indented, in one form. With zeros, also fields that are not set.
func JSON(message Message, zeros bool) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: zeros}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", message.ProtoReflect().Descriptor().Name(), err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil { // protojson varies its spaces on purpose
		return nil, err
	}
	return out.Bytes(), nil
}

// Time returns a time as messages have it; nil for the zero time.
func Time(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Duration returns a duration as messages have it; nil for 0.
func Duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// Sizes of pages.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Page collects a page of a list: as many entries as were asked for, and no more
// than a message has room for. An entry that alone is larger gets a page of its own.
type Page[M Message] struct {
	Entries []M

	size, bytes int
}

// NewPage begins a page for a request's page_size.
func NewPage[M Message](size uint32) *Page[M] {
	if size == 0 {
		size = DefaultPage
	}
	return &Page[M]{size: int(min(size, MaxPage))}
}

// Add adds an entry. It is false where the page is full without it: then it is the
// first of the next.
func (p *Page[M]) Add(entry M) bool {
	const frame = 8 // tag and length, at most
	bytes := proto.Size(entry) + frame
	if len(p.Entries) == p.size || len(p.Entries) > 0 && p.bytes+bytes > MaxMessage {
		return false
	}
	p.Entries = append(p.Entries, entry)
	p.bytes += bytes
	return true
}
