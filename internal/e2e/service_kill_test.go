package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/testenv"
)

const (
	killRounds  = 15
	killClients = 4
	killNames   = 2 // of sandboxes for each client
)

// nothing is what there is under a name that nothing has.
const nothing = "nothing"

// believer is a client of a service that is killed under it. Of everything it makes it
// knows what there may be: one thing where it was answered, and two where it was not.
// What a thing is, is told by its label or configuration and by its policy.
type believer struct {
	client *api.Client
	random *rand.Rand
	texts  []string            // of policies
	may    map[string][]string // by "sandbox NAME", "policy NAME", "provider NAME"
	done   map[string]int      // what was answered, for the log
}

// begin notes what a thing may be from now on, and end what it is.
func (b *believer) begin(thing, next string)   { b.may[thing] = append(b.may[thing], next) }
func (b *believer) end(thing, is string)       { b.may[thing] = []string{is} }
func (b *believer) is(thing, what string) bool { return slices.Equal(b.may[thing], []string{what}) }

// act makes one call. The error is the agent's end where that was the cause of it.
func (b *believer) act(ctx context.Context, n int) error {
	sandbox, provider := fmt.Sprintf("c%d-s%d", n, b.random.IntN(killNames)), fmt.Sprintf("c%d-p", n)
	value, text := fmt.Sprint(b.random.Uint32()), b.random.IntN(len(b.texts))
	box, rule, secret := "sandbox "+sandbox, "policy "+sandbox, "provider "+provider
	var err error
	what := ""
	switch op := b.random.IntN(6); {
	case op < 3 && b.is(box, nothing):
		what = "create"
		b.begin(box, value)
		b.begin(rule, b.texts[text])
		_, err = b.client.Sandboxes.CreateSandbox(ctx, &pb.CreateSandboxRequest{Name: sandbox, Spec: &pb.SandboxSpec{
			Labels: map[string]string{"is": value}, Policy: policySource(b.texts[text]), Workdir: "/tmp",
		}})
	case op == 0:
		what, value = "delete", nothing
		b.begin(box, nothing)
		b.begin(rule, nothing)
		_, err = b.client.Sandboxes.DeleteSandbox(ctx, &pb.DeleteSandboxRequest{Name: sandbox})
	case op == 1:
		what = "set policy"
		b.begin(rule, b.texts[text])
		_, err = b.client.Policies.SetPolicy(ctx, &pb.SetPolicyRequest{Sandbox: sandbox, Source: policySource(b.texts[text])})
	case op == 2:
		what = "update"
		b.begin(box, value)
		_, err = b.client.Sandboxes.UpdateSandbox(ctx, &pb.UpdateSandboxRequest{
			Name: sandbox, Fields: []string{"labels"}, Spec: &pb.SandboxSpec{Labels: map[string]string{"is": value}},
		})
	case b.is(secret, nothing):
		what, box, rule = "create provider", secret, ""
		b.begin(secret, value)
		_, err = b.client.Providers.CreateProvider(ctx, &pb.CreateProviderRequest{Provider: &pb.Provider{
			Name: provider, Type: "anthropic", Credentials: map[string]string{"key": value}, Config: map[string]string{"is": value},
		}})
	case op == 3:
		what, value, box, rule = "delete provider", nothing, secret, ""
		b.begin(secret, nothing)
		_, err = b.client.Providers.DeleteProvider(ctx, &pb.DeleteProviderRequest{Name: provider})
	default:
		what, box, rule = "update provider", secret, ""
		b.begin(secret, value)
		_, err = b.client.Providers.UpdateProvider(ctx, &pb.UpdateProviderRequest{
			Provider: &pb.Provider{Name: provider, Config: map[string]string{"is": value}, Credentials: map[string]string{"key": value}},
			Fields:   []string{"config", "credentials"},
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b.done[what]++
	if what != "set policy" {
		b.end(box, value)
	}
	switch what {
	case "create", "set policy":
		b.end(rule, b.texts[text])
	case "delete":
		b.end(rule, nothing)
	}
	return nil
}

// settle compares what there is with what there may be, and goes on from there.
func (b *believer) settle(t *testing.T, there map[string]string) {
	t.Helper()
	for thing, may := range b.may {
		is, ok := there[thing]
		if !ok {
			is = nothing
		}
		if !slices.Contains(may, is) {
			t.Errorf("%s is %q, and may be %q", thing, is, may)
		}
		b.end(thing, is)
	}
}

// The agent is killed at any instant of many changes. What was answered is there, and
// what was not is there as a whole or not at all.
func TestServiceKilledAtAnyInstant(t *testing.T) {
	testenv.Require(t, "curl")
	f := newFixture(t)
	s := f.newService()
	curl := realPath(t, "curl")
	texts := []string{
		networkPolicy(allowBlock("one", allowedName, []int{443}, curl)),
		networkPolicy(allowBlock("two", "other.test", []int{443}, curl)),
		networkPolicy(allowBlock("three", allowedName, []int{80}, curl)),
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	believers := make([]*believer, killClients)
	for n := range believers {
		b := &believer{random: rand.New(rand.NewPCG(seed, uint64(n))), texts: texts, may: map[string][]string{}, done: map[string]int{}}
		b.end(fmt.Sprintf("provider c%d-p", n), nothing)
		for i := range killNames {
			b.end(fmt.Sprintf("sandbox c%d-s%d", n, i), nothing)
			b.end(fmt.Sprintf("policy c%d-s%d", n, i), nothing)
		}
		believers[n] = b
	}
	random := rand.New(rand.NewPCG(seed, killClients))
	var slowest time.Duration
	for round := range killRounds {
		s.killUnder(t, believers, time.Duration(random.Int64N(int64(400*time.Millisecond))))
		begin := time.Now()
		s.start()
		slowest = max(slowest, time.Since(begin))
		there := s.there(t)
		for _, b := range believers {
			b.settle(t, there)
		}
		if t.Failed() {
			t.Fatalf("after kill %d\n%s", round, s.log)
		}
	}
	// What is said to be in force is: by what can be reached.
	for name, sb := range s.whole(t) {
		text := string(sb.GetSpec().GetPolicy().GetFiles()[0].GetYaml())
		_, _, status := s.exec(name, "curl -ksS --max-time 10 -o /dev/null https://"+allowedName+"/")
		if reached := status == 0; reached != (text == texts[0]) {
			t.Errorf("%s: reached is %v under\n%s", name, reached, text)
		}
	}
	done := map[string]int{}
	for _, b := range believers {
		for what, n := range b.done {
			done[what] += n
		}
	}
	t.Logf("slowest start %v", slowest.Round(time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(done)) {
		t.Logf("%6d %s", done[what], what)
	}
	for _, what := range []string{"create", "delete", "update", "set policy", "create provider", "update provider", "delete provider"} {
		if done[what] == 0 {
			t.Errorf("nothing was answered to %s", what)
		}
	}
}

// killUnder kills the agent while clients change things.
func (s *service) killUnder(t *testing.T, believers []*believer, after time.Duration) {
	t.Helper()
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	killed := make(chan struct{})
	for n, b := range believers {
		client, err := api.Dial(s.socket)
		if err != nil {
			t.Fatal(err)
		}
		b.client = client
		all.Go(func() {
			defer client.Close()
			for {
				if err := b.act(ctx, n); err != nil {
					if code := api.CodeOf(err); code != api.CodeUnavailable {
						t.Errorf("client %d: %v: %+v", n, err, api.ErrorOf(err))
					}
					<-killed // none of them gave up before
					return
				}
			}
		})
	}
	time.Sleep(after)
	_ = s.stop(syscall.SIGKILL)
	close(killed)
	all.Wait()
}

// there returns what there is, as believers name it.
func (s *service) there(t *testing.T) map[string]string {
	t.Helper()
	there := map[string]string{}
	for name, sb := range s.whole(t) {
		there["sandbox "+name] = sb.GetSpec().GetLabels()["is"]
		p, err := s.client.Policies.GetPolicy(t.Context(), &pb.GetPolicyRequest{Sandbox: name})
		if err != nil {
			t.Fatal(api.ErrorOf(err))
		}
		text := string(p.GetSource().GetFiles()[0].GetYaml())
		if of := string(sb.GetSpec().GetPolicy().GetFiles()[0].GetYaml()); of != text || p.GetState() != pb.PolicyRevision_LOADED {
			t.Errorf("%s: revision %d is %v and\n%s\nthe sandbox has\n%s", name, p.GetRevision(), p.GetState(), text, of)
		}
		there["policy "+name] = text
	}
	list, err := s.client.Providers.ListProviders(t.Context(), &pb.ListProvidersRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(api.ErrorOf(err))
	}
	for _, p := range list.GetProviders() {
		there["provider "+p.GetName()] = p.GetConfig()["is"]
	}
	return there
}
