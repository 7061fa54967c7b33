package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/ringfence/ringfence/internal/api"
	pb "github.com/ringfence/ringfence/internal/api/ringfencev1"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/store"
)

// providersService serves ringfence.v1.Providers. What it keeps of a provider lies
// in the store, its credentials sealed and apart.
type providersService struct {
	pb.UnimplementedProvidersServer
	*Daemon
}

// CreateProvider keeps a provider.
func (s providersService) CreateProvider(ctx context.Context, req *pb.CreateProviderRequest) (*pb.Provider, error) {
	p := api.Clone(req.GetProvider())
	s.providers.Lock()
	defer s.providers.Unlock()
	_, err := s.provider(p.GetName())
	switch {
	case err == nil:
		return nil, api.AlreadyExists("choose another name, or update it", "there is a provider %q already", p.GetName())
	case !isNotFound(err):
		return nil, err
	}
	p.CreateTime, p.UpdateTime, p.Version = api.Time(time.Now()), api.Time(time.Now()), 1
	err = s.putProvider(p, p.GetCredentials())
	s.recordChange(ctx, flow.ReasonProviderChanged, "", "create "+p.GetName(), err)
	if err != nil {
		return nil, err
	}
	return s.provider(p.GetName())
}

// GetProvider returns one without its secrets.
func (s providersService) GetProvider(_ context.Context, req *pb.GetProviderRequest) (*pb.Provider, error) {
	return s.provider(req.GetName())
}

// ListProviders returns them in the order of their names.
func (s providersService) ListProviders(_ context.Context, req *pb.ListProvidersRequest) (*pb.ListProvidersResponse, error) {
	page := api.NewPage[*pb.Provider](req.GetPageSize())
	err := s.store.Each(store.Providers, req.GetPageToken(), func(item store.Item) error {
		if item.Secret {
			return nil
		}
		p, err := decodeProvider(item.Value)
		if err != nil {
			return err
		}
		if !page.Add(p) {
			return errPageFull
		}
		return nil
	})
	response := &pb.ListProvidersResponse{Providers: page.Entries}
	if errors.Is(err, errPageFull) {
		response.NextPageToken, err = lastName(page.Entries), nil
	}
	return response, err
}

// UpdateProvider replaces the fields that are named.
func (s providersService) UpdateProvider(ctx context.Context, req *pb.UpdateProviderRequest) (*pb.Provider, error) {
	s.providers.Lock()
	defer s.providers.Unlock()
	want := req.GetProvider()
	p, err := s.provider(want.GetName())
	if err != nil {
		return nil, err
	}
	if v := req.GetVersion(); v != 0 && v != p.GetVersion() {
		return nil, changedMeanwhile(p.GetName(), p.GetVersion(), v)
	}
	credentials := map[string]string(nil) // as they are
	for _, field := range req.GetFields() {
		switch field {
		case "type":
			p.Type = want.GetType()
		case "config":
			p.Config = want.GetConfig()
		case "credentials":
			if credentials = want.GetCredentials(); credentials == nil {
				credentials = map[string]string{}
			}
		default:
			return nil, noField(field)
		}
	}
	p.UpdateTime, p.Version = api.Time(time.Now()), p.GetVersion()+1
	err = s.putProvider(p, credentials)
	s.recordChange(ctx, flow.ReasonProviderChanged, "", "update "+p.GetName(), err)
	if err != nil {
		return nil, err
	}
	return s.provider(p.GetName())
}

// DeleteProvider forgets one that no sandbox names.
func (s providersService) DeleteProvider(ctx context.Context, req *pb.DeleteProviderRequest) (*pb.DeleteProviderResponse, error) {
	s.providers.Lock()
	defer s.providers.Unlock()
	name := req.GetName()
	if _, err := s.provider(name); err != nil {
		if isNotFound(err) && req.GetAllowMissing() {
			return &pb.DeleteProviderResponse{}, nil
		}
		return nil, err
	}
	boxes, _ := s.fleet.all()
	for _, b := range boxes {
		if message, _, _ := s.fleet.look(b); slices.Contains(message.GetSpec().GetProviders(), name) {
			return nil, api.FailedPrecondition("update or delete that sandbox first", "provider %q is used by sandbox %q", name, b.name)
		}
	}
	var batch store.Batch
	batch.Delete(store.Providers, name)
	batch.Delete(store.Providers, credentialsKey(name))
	err := s.store.Write(&batch)
	s.recordChange(ctx, flow.ReasonProviderChanged, "", "delete "+name, err)
	if err != nil {
		return nil, err
	}
	return &pb.DeleteProviderResponse{}, nil
}

// provider returns one, without its secrets.
func (d *Daemon) provider(name string) (*pb.Provider, error) {
	value, err := d.store.Get(store.Providers, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.NotFound("ringfence provider list shows those that there are", "there is no provider %q", name)
	}
	if err != nil {
		return nil, err
	}
	return decodeProvider(value)
}

// putProvider writes a provider, and its credentials unless they are nil, in one step.
func (d *Daemon) putProvider(p *pb.Provider, credentials map[string]string) error {
	public := api.Clone(p)
	public.Credentials = nil
	if credentials != nil {
		public.CredentialNames = slices.Sorted(maps.Keys(credentials))
	}
	value, err := api.Encode(public)
	if err != nil {
		return err
	}
	secret, err := json.Marshal(credentials)
	if err != nil {
		return err
	}
	var batch store.Batch
	if credentials != nil {
		batch.PutSecret(store.Providers, credentialsKey(public.GetName()), secret)
	}
	batch.Put(store.Providers, public.GetName(), value)
	return d.store.Write(&batch)
}

// credentialsKey is where a provider's credentials lie, sealed: no name has a slash.
func credentialsKey(name string) string { return name + "/credentials" }

func decodeProvider(value []byte) (*pb.Provider, error) {
	var p pb.Provider
	if err := api.Decode(value, &p); err != nil {
		return nil, err
	}
	p.Credentials = nil
	return &p, nil
}
