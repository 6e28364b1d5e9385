package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
)

// ServerTLS is the certificate that a listener shows, and what it wants of its clients'. The files are read again when they change.
type ServerTLS struct {
	Cert       string `yaml:"cert" jsonschema_description:"PEM file of the listener's certificate, with what is between it and its authority." example:"/etc/outrelay/tls.pem"`
	Key        string `yaml:"key" jsonschema_description:"PEM file of its key." example:"/etc/outrelay/tls.key"`
	ClientCA   string `yaml:"client_ca,omitempty" jsonschema_description:"PEM file of the authorities that sign clients' certificates. A client is then who the first URI, else DNS name, else e-mail address of its certificate says, unless it authenticates by SASL." example:"/etc/outrelay/clients.pem"`
	ClientAuth string `yaml:"client_auth,omitempty" jsonschema_description:"required (default where client_ca is set) or optional." example:"required" jsonschema:"enum=required,enum=optional"`
}

// On reports whether the listener speaks TLS.
func (t ServerTLS) On() bool { return t.Cert != "" || t.Key != "" || t.ClientCA != "" }

// IsZero keeps what was not asked for out of the output.
func (t ServerTLS) IsZero() bool { return t == ServerTLS{} }

// Listener is one more address of the broker.
type Listener struct {
	Listen    string    `yaml:"listen" jsonschema_description:"Address." example:"127.0.0.1:9093"`
	Advertise string    `yaml:"advertise,omitempty" jsonschema_description:"Address that clients of this listener are told to connect to." example:"log.internal:9093"`
	Insecure  bool      `yaml:"insecure,omitempty" jsonschema_description:"Allow an address that is not on the loopback, without authentication." example:"false"`
	TLS       ServerTLS `yaml:"tls,omitempty" jsonschema_description:"TLS."`
	SASL      []string  `yaml:"sasl" jsonschema_description:"SASL mechanisms. Default: as broker.sasl; [] for none." example:"[SCRAM-SHA-512]"`
}

// User is a user of the log, by its name or by what its certificate says.
type User struct {
	Password Password `yaml:"password,omitempty" jsonschema_description:"Password, for SASL. Without one the user is known by a certificate, or was added by outrelay users add." example:"${env:APP_PASSWORD}"`
	Super    bool     `yaml:"super,omitempty" jsonschema_description:"May do everything." example:"true"`
	Allow    []string `yaml:"allow,omitempty" jsonschema_description:"What the user may do: operations, a type (topic, group, transactional_id, cluster) and a name; a name that ends with * is a prefix." example:"[\"read,write topic orders\", \"read group app-*\"]"`
	Pos      Pos      `yaml:"-"`
}

// Limits bound connections.
type Limits struct {
	Connections         int `yaml:"connections" jsonschema_description:"Connections over all listeners; at most three quarters of the files that the process may open." example:"10000"`
	ConnectionsPerIP    int `yaml:"connections_per_ip" jsonschema_description:"Connections of one address; the loopback is not limited." example:"1000"`
	ConnectionRatePerIP int `yaml:"connection_rate_per_ip" jsonschema_description:"New connections of one address a second, twice as many at once; the loopback is not limited." example:"100"`
}

// The SASL mechanisms, and those that are offered where nothing is said.
const mechanismPlain = "PLAIN"

var mechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}

// Main returns the listener that broker.listen describes.
func (b *Broker) Main() Listener {
	return Listener{Listen: b.Listen, Advertise: b.Advertise, Insecure: b.Insecure, TLS: b.TLS, SASL: b.SASL}
}

// Authenticates reports whether a listener finds out who every one of its clients is.
func (l Listener) Authenticates() bool {
	return len(l.SASL) > 0 || l.TLS.ClientCA != "" && l.TLS.ClientAuth != "optional"
}

// Secured reports whether a listener of the broker authenticates, so that access control is in force.
func (b *Broker) Secured() bool {
	if m := b.Main(); m.Authenticates() || m.TLS.ClientCA != "" {
		return true
	}
	for _, l := range b.Listeners {
		if l.Authenticates() || l.TLS.ClientCA != "" {
			return true
		}
	}
	return false
}

// fillListeners fills in the mechanisms: where users have passwords, they are asked for them.
func (c *Config) fillListeners() {
	b := &c.Broker
	passwords := false
	for _, u := range b.Users {
		passwords = passwords || !u.Password.IsZero()
	}
	fill := func(sasl *[]string, t ServerTLS, path string) {
		if c.has(path+".sasl") || !passwords {
			return
		}
		*sasl = slices.Clone(mechanisms)
		if t.On() {
			*sasl = append(*sasl, mechanismPlain)
		}
	}
	fill(&b.SASL, b.TLS, "broker")
	for name, l := range b.Listeners {
		fill(&l.SASL, l.TLS, join("broker.listeners", name))
	}
}

// security checks listeners and users.
func (k checker) security() {
	b := &k.c.Broker
	k.secureListener(b.Main(), "broker", "broker.insecure")
	for _, name := range sorted(b.Listeners) {
		path := join("broker.listeners", name)
		if !nameRE.MatchString(name) || name == "kafka" || name == "internal" {
			k.bad(path, "bad-name", "letters, digits, dots, underscores and hyphens; kafka and internal are taken", "%q is no name for a listener", clip(name))
		}
		k.secureListener(*b.Listeners[name], path, path+".insecure")
	}
	for _, name := range sorted(b.Users) {
		k.user(name, b.Users[name])
	}
	if len(b.Users) > 0 && !b.Secured() {
		k.bad("broker.users", "users-without-authentication", "give a user a password, or set broker.tls.client_ca", "no listener finds out who its clients are")
	}
	for what, n := range map[string]int{"connections": b.Limits.Connections, "connections_per_ip": b.Limits.ConnectionsPerIP, "connection_rate_per_ip": b.Limits.ConnectionRatePerIP} {
		if n < 1 {
			k.bad("broker.limits."+what, "bad-limit", "write a number from 1 on", "a limit of %d", n)
		}
	}
}

func (k checker) secureListener(l Listener, path, insecurePath string) {
	if l.Authenticates() {
		host, ok := k.address(l.Listen, path+".listen")
		if ok && !l.TLS.On() && !loopback(host) {
			k.warn(k.at(path), path, "no-tls", l.Listen+" is not the loopback and has no TLS: SCRAM protects the passwords, nothing protects the records", "add tls: {cert: …, key: …}")
		}
	} else {
		k.listener(l.Listen, path+".listen", insecurePath, l.Insecure)
	}
	if l.Advertise != "" {
		k.address(l.Advertise, path+".advertise")
	}
	for i, m := range l.SASL {
		at := fmt.Sprintf("%s.sasl[%d]", path, i)
		k.oneOf(m, at, append(slices.Clone(mechanisms), mechanismPlain)...)
		if m == mechanismPlain && !l.TLS.On() {
			k.bad(at, "plain-in-clear", "add tls: {cert: …, key: …}, or leave PLAIN out", "PLAIN without TLS sends passwords in clear")
		}
	}
	k.serverTLS(l.TLS, path+".tls")
}

func (k checker) serverTLS(t ServerTLS, path string) {
	switch {
	case !t.On() && t.ClientAuth == "":
		return
	case t.Cert == "" || t.Key == "":
		k.bad(path, "tls-half", "write both cert and key", "a TLS listener needs a certificate and its key")
		return
	case t.ClientAuth != "" && t.ClientCA == "":
		k.bad(path+".client_auth", "no-client-ca", "write client_ca: the PEM file of the authorities that sign clients' certificates", "clients' certificates cannot be verified")
	case t.ClientAuth != "":
		k.oneOf(t.ClientAuth, path+".client_auth", "required", "optional")
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		k.bad(path+".cert", "tls-file", "name PEM files of a certificate and of the key that belongs to it", "%v", err)
	}
	if st, err := os.Stat(t.Key); err == nil && st.Mode().Perm()&0o004 != 0 {
		k.warn(k.at(path+".key"), path+".key", "secret-world-readable", "file "+t.Key+" can be read by every user of this machine", "chmod 600 "+t.Key)
	}
	if t.ClientCA != "" {
		if _, err := os.ReadFile(t.ClientCA); err != nil {
			k.bad(path+".client_ca", "tls-file", "name a PEM file that outrelay may read", "%v", err)
		}
	}
}

func (k checker) user(name string, u *User) {
	path := join("broker.users", name)
	if name == "" || len(name) > 255 || name == "outrelay" || name == "ANONYMOUS" || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) || name == "*" {
		k.bad(path, "bad-user", "1 to 255 printable bytes; outrelay, ANONYMOUS and * are taken", "%q is no name for a user", clip(name))
	}
	if !u.Password.IsZero() && !u.Password.IsReference() {
		k.warn(k.at(path+".password"), path+".password", "secret-in-file", "the password stands in the file", "put it into an environment variable or a file and write ${env:NAME} or ${file:/path}")
	}
	if p, err := u.Password.Resolve(); err == nil && !u.Password.IsZero() && p == "" {
		k.bad(path+".password", "empty-password", "give the reference a value", "the password is empty")
	}
	for i, rule := range u.Allow {
		if _, err := ParseRule(rule); err != nil {
			k.bad(fmt.Sprintf("%s.allow[%d]", path, i), "bad-rule", "write operations, a type and a name, as: read,write topic orders", "%v", err)
		}
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Rule is one entry of allow.
type Rule struct {
	Operations []string // in lower case, as read, describe_configs, all
	Type       string   // topic, group, transactional_id, cluster
	Name       string   // without the star of a prefix; empty for the cluster
	Prefix     bool
}

// operationsOf are the operations that exist for each type.
func operationsOf(kind string) []string {
	switch kind {
	case "topic":
		return []string{"read", "write", "create", "delete", "alter", "describe", "describe_configs", "alter_configs"}
	case "group":
		return []string{"read", "delete", "describe", "describe_configs", "alter_configs"}
	case "transactional_id":
		return []string{"write", "describe"}
	case "cluster":
		return []string{"create", "alter", "describe", "describe_configs", "alter_configs", "cluster_action", "idempotent_write"}
	}
	return nil
}

// ParseRule reads "read,write topic orders", "all topic app-*", "read group *" or "describe cluster".
func ParseRule(s string) (r Rule, err error) {
	f := strings.Fields(s)
	if len(f) < 2 || len(f) > 3 {
		return r, fmt.Errorf("%q is no rule", clip(s))
	}
	known := operationsOf(f[1])
	if known == nil {
		return r, fmt.Errorf("%q is no type of resource: topic, group, transactional_id, cluster", clip(f[1]))
	}
	r.Type, r.Operations = f[1], strings.Split(f[0], ",")
	for _, op := range r.Operations {
		if op != "all" && !slices.Contains(known, op) {
			return r, fmt.Errorf("%q cannot be done to a %s: all, %s", clip(op), r.Type, strings.Join(known, ", "))
		}
	}
	switch {
	case r.Type == "cluster" && len(f) == 2:
		return r, nil
	case r.Type == "cluster" || len(f) == 2:
		return r, fmt.Errorf("%q: a %s and its name go together; the cluster has none", clip(s), r.Type)
	}
	r.Name = f[2]
	if name, ok := strings.CutSuffix(r.Name, "*"); ok && name != "" {
		r.Name, r.Prefix = name, true
	}
	return r, nil
}
