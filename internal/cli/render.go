package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/event"
)

// nounFormats are the formats in which the agent's things are shown.
func nounFormats() []string { return []string{"text", "wide", "json", "yaml"} }

// show writes a message in the chosen format; text does it for a person.
func (o *output) show(out io.Writer, m api.Message, text func(t *table, wide bool)) error {
	switch o.value {
	case "json", "yaml":
		return o.showMessage(out, m)
	}
	t := newTable(out)
	text(t, o.value == "wide")
	return t.flush()
}

func (o *output) showMessage(out io.Writer, m api.Message) error {
	text, err := api.JSON(m, true)
	if err != nil {
		return err
	}
	if o.value == "yaml" {
		if text, err = yamlOf(text); err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	_, err = out.Write(append(event.AppendPrintable(nil, text), '\n'))
	return err
}

// showLine writes a message of a stream: JSON in one line, or a YAML document.
func (o *output) showLine(out io.Writer, m api.Message) error {
	text, err := api.JSON(m, true)
	if err != nil {
		return err
	}
	if o.value == "yaml" {
		if text, err = yamlOf(text); err != nil {
			return err
		}
		text = append([]byte("---\n"), text...)
	} else {
		var line bytes.Buffer
		if err := json.Compact(&line, event.AppendPrintable(nil, text)); err != nil {
			return err
		}
		line.WriteByte('\n')
		text = line.Bytes()
	}
	_, err = out.Write(text)
	return err
}

// yamlOf returns JSON as YAML, its fields in the same order. JSON is YAML already,
// in a style that nobody reads.
func yamlOf(text []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	blockStyle(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, fmt.Errorf("encode YAML: %w", err)
	}
	return printableYAML(out.Bytes()), nil
}

// printableYAML escapes what does not print. YAML's library leaves bidi controls and
// their like as they are; they stand between double quotes only, see blockStyle.
func printableYAML(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		switch {
		case strconv.IsPrint(r), r == '\n':
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			out = fmt.Appendf(out, `\U%08x`, r)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// blockStyle has every node written as a person would. What does not print is put
// between double quotes, where it is escaped.
func blockStyle(node *yaml.Node) {
	node.Style = 0
	if node.Kind == yaml.ScalarNode && event.Prose(node.Value) != node.Value {
		node.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range node.Content {
		blockStyle(child)
	}
}

// table writes rows for a person. Each cell is quoted: much of what the agent tells
// was chosen by others.
type table struct {
	out *tabwriter.Writer
}

func newTable(out io.Writer) *table {
	return &table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
}

// row writes one row; an empty cell is a dash.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		cells[i] = event.Quote(cell)
	}
	fmt.Fprintln(t.out, strings.Join(cells, "\t"))
}

func (t *table) flush() error { return t.out.Flush() }

// field writes a line about a thing; what is empty is left out.
func (t *table) field(name, value string) {
	if value != "" {
		t.row(name+":", value)
	}
}

// keyValues returns a map in one line, sorted.
func keyValues[V any](m map[string]V) string {
	var all []string
	for key, value := range m {
		all = append(all, fmt.Sprintf("%s=%v", key, value))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// timestamp is what protobuf's has, whose library is not ours to know.
type timestamp interface {
	IsValid() bool
	AsTime() time.Time
}

// age says how long ago a time was, as short as kubectl does.
func age(at timestamp, now time.Time) string {
	if !at.IsValid() {
		return ""
	}
	d := max(now.Sub(at.AsTime()), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// clock is a time in full.
func clock(at timestamp) string {
	if !at.IsValid() {
		return ""
	}
	return at.AsTime().UTC().Format(time.RFC3339)
}
