package netns

import "github.com/ringfence/ringfence/internal/floor"

// Requirements says what of this package's the machine has.
func Requirements() []floor.Requirement {
	return []floor.Requirement{namespaces(), ipv6(HasIPv6())}
}

// namespaces asks for this thread's namespace, and for what names it to the hooks.
func namespaces() floor.Requirement {
	r := floor.Requirement{Name: "network namespaces", State: floor.Met, Found: "they have cookies", Hint: "the kernel needs CONFIG_NET_NS"}
	home, err := Current()
	if err == nil {
		_ = home.Close()
		_, err = currentCookie()
	}
	if err != nil {
		r.State, r.Found = floor.Missing, err.Error()
	}
	return r
}

func ipv6(has bool) floor.Requirement {
	r := floor.Requirement{
		Name: "IPv6", State: floor.Met, Found: "there", Costs: "sandboxes have IPv4 only",
		Hint: "boot without ipv6.disable=1",
	}
	if !has {
		r.State, r.Found = floor.Missing, "the kernel opens no socket of it"
	}
	return r
}
