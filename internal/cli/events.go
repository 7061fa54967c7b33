package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/event"
)

const eventsLong = `Shows records of what was allowed and denied, of those that the agent still has, the
oldest first: when, in which sandbox, the verdict, which program and where to, the
reason, and the policy that says so. A denial's hint follows.

With -f it goes on with each record as it is made, until it is interrupted, and waits
for an agent that is restarted. Records that could not be taken in time are told as
lost.

--since takes a duration (10m, 24h) or a time (2026-01-31T12:00:00Z).` + serviceExits

const (
	restartTimeout = 30 * time.Second // an agent that is restarted is back in one
	restartPoll    = 200 * time.Millisecond
)

// maxPast is how many records of the past the agent sends before it follows.
const maxPast = 1000

type eventOptions struct {
	follow  bool
	sandbox string
	verdict string
	host    string
	reason  string
	binary  string
	since   string
	until   string
	number  int
}

func (o *eventOptions) addTo(f *pflag.FlagSet) {
	f.SortFlags = false
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with each as it is made")
	f.IntVarP(&o.number, "number", "n", 100, "show the last `N` of the past")
	f.StringVar(&o.sandbox, "sandbox", "", "only those of the sandbox `NAME`")
	f.StringVar(&o.verdict, "verdict", "", "only `allow|deny|audit`")
	f.StringVar(&o.host, "host", "", "only of `HOST`; with a dot before it, of all below the domain")
	f.StringVar(&o.reason, "reason", "", "only with the `REASON`")
	f.StringVar(&o.binary, "binary", "", "only of the program `PATH`")
	f.StringVar(&o.since, "since", "", "only from `TIME|DURATION` on")
	f.StringVar(&o.until, "until", "", "only before `TIME|DURATION`")
}

func (o *eventOptions) filter(now time.Time) (*ringfencev1.RecordFilter, error) {
	filter := &ringfencev1.RecordFilter{Sandbox: o.sandbox, Verdict: o.verdict, Host: o.host, Reason: o.reason, Binary: o.binary}
	if o.verdict != "" && !slices.Contains([]string{"allow", "deny", "audit"}, o.verdict) {
		return nil, unread(hint(fmt.Errorf("--verdict %q is none", o.verdict), "it may be allow, deny, audit"))
	}
	if o.number < 0 {
		return nil, unread(fmt.Errorf("--number %d is less than nothing", o.number))
	}
	if o.follow && o.until != "" {
		return nil, unread(errors.New("--until and --follow are both given"))
	}
	if o.follow && o.number > maxPast {
		return nil, unread(hint(fmt.Errorf("--number %d is too much with --follow", o.number), fmt.Sprintf("it may be %d; without --follow it may be more", maxPast)))
	}
	if o.since != "" {
		at, err := parseMoment("--since", o.since, now)
		if err != nil {
			return nil, err
		}
		filter.Since = api.Time(at)
	}
	if o.until != "" {
		at, err := parseMoment("--until", o.until, now)
		if err != nil {
			return nil, err
		}
		filter.Until = api.Time(at)
	}
	return filter, nil
}

// parseMoment reads a time, or how long ago it was.
func parseMoment(flag, text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, unread(hint(fmt.Errorf("%s %q is neither a duration nor a time", flag, text), "write 10m, 24h or 2026-01-31T12:00:00Z"))
	}
	return at, nil
}

func newEvents(env Env) *cobra.Command {
	var opts eventOptions
	var out output
	r := &remote{env: env}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what was allowed and denied",
		Long:  eventsLong,
		Example: `  ringfence events -f --verdict deny
  ringfence events --sandbox web --since 10m --host .example.com
  ringfence events -o json -n 1000 | jq -r .reason | sort | uniq -c`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			filter, err := opts.filter(time.Now())
			if err != nil {
				return err
			}
			return r.call(func(c *api.Client) error {
				shown := &shownRecords{env: env, json: out.value == "json"}
				if opts.follow {
					return shown.follow(cmd.Context(), c, filter, opts.number)
				}
				return shown.past(cmd.Context(), c, filter, opts.number)
			})
		},
	}
	opts.addTo(cmd.Flags())
	out.addTo(cmd.Flags(), "text", "json")
	r.addTo(cmd.Flags())
	completeFlag(cmd, "sandbox", completeSandbox(r, anyNumber))
	completeFlag(cmd, "verdict", cobra.FixedCompletions([]string{"allow", "deny", "audit"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// shownRecords writes records.
type shownRecords struct {
	env  Env
	json bool
}

// past shows the last of those that the agent has. They come the oldest first, page
// after page.
func (s *shownRecords) past(ctx context.Context, c *api.Client, filter *ringfencev1.RecordFilter, number int) error {
	var last []*ringfencev1.Record
	request := &ringfencev1.QueryRecordsRequest{Filter: filter, PageSize: listPage}
	for {
		page, err := c.Records.QueryRecords(ctx, request)
		if err != nil {
			return err
		}
		last = append(last, page.GetRecords()...)
		last = last[max(len(last)-number, 0):]
		if request.PageToken = page.GetNextPageToken(); request.GetPageToken() == "" {
			break
		}
	}
	for _, record := range last {
		if err := s.show(record); err != nil {
			return err
		}
	}
	return nil
}

// follow shows records as they are made. An agent that is restarted is waited for, and
// followed from where the one before was.
func (s *shownRecords) follow(ctx context.Context, c *api.Client, filter *ringfencev1.RecordFilter, number int) error {
	request := &ringfencev1.TailRecordsRequest{Filter: filter, Past: uint32(number)}
	var gone time.Time
	for {
		seen, err := s.tail(ctx, c, request)
		if err == nil || api.CodeOf(err) != api.CodeUnavailable {
			return err
		}
		if seen || gone.IsZero() {
			gone = time.Now()
			fmt.Fprintln(s.env.Stderr, "ringfence: the agent has gone; waiting for it to be back")
		}
		if time.Since(gone) > restartTimeout {
			return err
		}
		request.Past = 0
		select {
		case <-time.After(restartPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tail shows what one stream brings, and notes in the request where the next is to go
// on. It reports whether anything came.
func (s *shownRecords) tail(ctx context.Context, c *api.Client, request *ringfencev1.TailRecordsRequest) (seen bool, err error) {
	stream, err := c.Records.TailRecords(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return seen, nil
		}
		if err != nil {
			return seen, err
		}
		seen = true
		if message.GetRestarted() {
			fmt.Fprintln(s.env.Stderr, "ringfence: the agent was started again: what it had kept is lost")
		}
		if lost := message.GetLost(); lost > 0 {
			fmt.Fprintf(s.env.Stderr, "ringfence: %d records were lost here\n", lost)
		}
		if record := message.GetRecord(); record != nil {
			request.After = record.GetCursor()
			if err := s.show(record); err != nil {
				return seen, err
			}
		}
	}
}

func (s *shownRecords) show(record *ringfencev1.Record) error {
	var err error
	if s.json {
		line := event.AppendPrintable(nil, []byte(oneLine(record.GetJson())))
		_, err = s.env.Stdout.Write(append(line, '\n'))
	} else {
		_, err = s.env.Stdout.WriteString(recordLine(record))
	}
	return err
}
