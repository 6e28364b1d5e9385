package daemon

import (
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/relay"
)

// RelayOptions returns what a source's relay is given.
func RelayOptions(c *config.Config, name string) relay.Options {
	return relayOptions(name, c.Sources[name], nil)
}
