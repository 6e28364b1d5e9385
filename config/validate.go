package config

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/internal/topicname"
)

const (
	partitionsMax = 10_000 // of one topic, on one node

	recordBytesMin Size = 16 << 10 // a dead letter's headers must fit
	recordBytesMax Size = 30 << 20 // below what our own log takes in a batch
)

// checker gathers what is wrong, at the places that the decoder noted.
type checker struct {
	*decoder
	c *Config
}

// validate checks what can be known without connecting to anything.
func (c *Config) validate(d *decoder, logOnly bool) {
	k := checker{d, c}
	k.process(logOnly)
	for _, name := range sorted(c.Topics) {
		path := join("topics", name)
		k.topicName(name, path)
		k.partitions(c.Topics[name].Partitions, path+".partitions")
	}
	for _, name := range sorted(c.Sources) {
		k.source(name, c.Sources[name])
	}
	k.slots()
	for _, name := range sorted(c.Consumers) {
		k.consumer(name, c.Consumers[name])
	}
}

func (k checker) at(path string) *yaml.Node {
	for p := path; ; {
		if pos, ok := k.positions[p]; ok {
			return &yaml.Node{Line: pos.Line, Column: pos.Column}
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			return &yaml.Node{}
		}
		p = p[:i]
	}
}

func (k checker) bad(path, code, fix, format string, args ...any) {
	k.problem(k.at(path), path, code, fmt.Sprintf(format, args...), fix)
}

func (k checker) process(logOnly bool) {
	c := k.c
	if len(c.Sources) == 0 && len(c.Consumers) == 0 && !logOnly {
		k.bad("", "nothing-to-do", "declare one under sources: or consumers:, or run the broker alone with --log-only", "no sources or consumers")
	}
	for i, r := range c.Roles {
		if !slices.Contains([]Role{RoleBroker, RoleRelay, RoleConsumers, RoleAdmin}, r) {
			k.bad(fmt.Sprintf("roles[%d]", i), "unknown-role", "the roles are broker, relay, consumers, admin", "unknown role %q", r)
		}
	}
	if c.Has(RoleBroker) && c.Log.External() {
		k.bad("log.kafka", "two-logs", "remove broker from roles, or remove log.kafka", "the role broker and log.kafka exclude each other: relay and consumers use one log")
	}
	if !c.Has(RoleBroker) && !c.Log.External() && (c.Has(RoleRelay) || c.Has(RoleConsumers)) {
		k.bad("roles", "no-log", "add broker to roles, or say log: {kafka: [host:port]}", "relay and consumers have no log")
	}
	k.externalLog()
	if c.Has(RoleBroker) {
		k.security()
		k.partitions(c.Broker.Partitions, "broker.partitions")
		if g := c.Broker.Groups; g.Heartbeat <= 0 || g.Heartbeat >= g.Session {
			k.bad("broker.groups.heartbeat", "group-heartbeat", "write a time below broker.groups.session", "members are asked every %v and given up after %v", g.Heartbeat, g.Session)
		}
		if c.Broker.ReplicationFactor != 1 {
			k.bad("broker.replication_factor", "replication-factor", "write 1, or leave it out", "replication factor %d with 1 node", c.Broker.ReplicationFactor)
		}
	}
	if c.HTTP.Listen != "" {
		k.listener(c.HTTP.Listen, "http.listen", "http.insecure", c.HTTP.Insecure)
	}
}

func (k checker) address(a, path string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		k.bad(path, "bad-address", "write host:port, as 127.0.0.1:9092", "%q is no address", a)
		return "", false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		k.bad(path, "bad-port", "a port is a number up to 65535", "%q is no port", port)
		return "", false
	}
	return host, true
}

// listener refuses an address that others can reach as long as nothing protects it (B19).
func (k checker) listener(a, path, insecurePath string, insecure bool) {
	host, ok := k.address(a, path)
	if !ok || insecure {
		return
	}
	if loopback(host) {
		return
	}
	fix := "listen on 127.0.0.1"
	if strings.HasPrefix(path, "broker.") {
		fix = "listen on 127.0.0.1, make clients authenticate (broker.users, broker.tls.client_ca)"
	}
	k.bad(path, "insecure-listener", fix+", or say "+insecurePath+": true where the network itself is trusted",
		"%s is not the loopback, and the listener has no authentication", a)
}

var topicRE = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

func (k checker) topicName(name, path string) {
	switch {
	case name == "." || name == ".." || !topicRE.MatchString(name):
		k.bad(path, "bad-topic", "1 to 249 letters, digits, dots, underscores and hyphens", "%q is no topic name", clip(name))
	case strings.HasPrefix(name, "__"):
		k.bad(path, "internal-topic", "choose a name that does not begin with two underscores", "topic %s is reserved for internal use", name)
	}
}

func (k checker) partitions(n int, path string) {
	if n < 1 || n > partitionsMax {
		k.bad(path, "bad-partitions", fmt.Sprintf("write 1 to %d", partitionsMax), "%d partitions", n)
	}
}

var (
	nameRE  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$`)
	slotRE  = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	tableRE = regexp.MustCompile(`^[^.\s]+\.[^.\s]+$`)
	holeRE  = regexp.MustCompile(`\{([^{}]*)\}`)
)

func (k checker) outbox(s *Source, o *Outbox, path string, seen map[string]bool) {
	switch {
	case !tableRE.MatchString(o.Table):
		k.badTable(s, o, path+".table")
	case seen[o.Table]:
		k.bad(path+".table", "duplicate-table", "remove one of them", "table %s stands twice", o.Table)
	}
	seen[o.Table] = true
	k.partitions(o.Partitions, path+".partitions")
	k.route(o, path)
	for i, p := range o.Additional {
		at := fmt.Sprintf("%s.additional[%d]", path, i)
		if p.Column == "" {
			k.bad(at+".column", "no-column", "name the column", "the placement has no column")
		}
		k.oneOf(p.Place, at+".place", "header", "partition", "envelope")
	}
}

func (k checker) badTable(s *Source, o *Outbox, path string) {
	if s.Database().Family.IsMySQL() {
		k.bad(path, "bad-table", "write database.table, as shop.outbox", "%q is no table with its database", clip(o.Table))
		return
	}
	k.bad(path, "bad-table", "write schema.table, as public.outbox", "%q is no table with its schema", clip(o.Table))
}

// route checks how the topic is named.
func (k checker) route(o *Outbox, path string) {
	if o.Route == nil {
		k.topicName(holeRE.ReplaceAllString(o.Topic, "x"), path+".topic")
		return
	}
	if o.Topic != "" {
		k.bad(path+".route", "two-routes", "remove one of them; topic: 'outbox.event.{column}' does what most need", "topic and route exclude each other")
	}
	if _, err := topicname.Compile(o.Route.Regex, string(o.Route.Replacement)); err != nil {
		k.bad(path+".route", "bad-route", "the regex is of RE2 syntax; the replacement names its groups as $1 or ${name}", "%v", err)
		return
	}
	k.topicName(referenceRE.ReplaceAllString(string(o.Route.Replacement), "x"), path+".route.replacement")
}

// referenceRE finds what stands for a group in a replacement.
var referenceRE = regexp.MustCompile(`\$(?:\{[^}]*\}|[0-9]+)`)

// template returns the topic template of a table, with a hole for each group where the topic is named by a regex.
func (o *Outbox) template() string {
	if o.Route == nil {
		return o.Topic
	}
	return referenceRE.ReplaceAllString(string(o.Route.Replacement), "{x}")
}

func (k checker) postgres(s Secret, path string) {
	if s.IsZero() {
		if k.c.has(path) {
			return // the decoder has said what is wrong with it
		}
		k.bad(path, "no-database", "add postgres: ${env:SHOP_DSN}", "there is no database")
		return
	}
	if _, err := PostgresConnString(s); err != nil {
		if _, unresolved := s.Resolve(); unresolved == nil { // an unresolved reference is reported by the decoder
			k.bad(path, "bad-dsn", "write postgres://user@host:5432/database, with sslmode=verify-full, require or disable where it must be said", "%v", err)
		}
		return
	}
	dsn, _ := s.Resolve()
	if mode, said := sslMode(dsn); said && mode != "verify-full" && mode != "verify-ca" {
		if cfgHost := hostOf(dsn); !isLocal(cfgHost) {
			k.warn(k.at(path), path, "tls-not-verified", "sslmode="+mode+" does not verify the server", "use sslmode=verify-full")
		}
	}
}

func (k checker) oneOf(v, path string, allowed ...string) {
	if slices.Contains(allowed, v) {
		return
	}
	fix := "write " + strings.Join(allowed, " or ")
	if near := nearest(v, allowed); near != "" {
		fix = "did you mean " + near + "?"
	}
	k.bad(path, "bad-choice", fix, "%q is not one of %s", clip(v), strings.Join(allowed, ", "))
}

func (k checker) consumer(name string, g *Consumer) {
	path := join("consumers", name)
	if !nameRE.MatchString(name) {
		k.bad(path, "bad-name", "letters, digits, dots, underscores and hyphens", "%q is no name for a group", clip(name))
	}
	if len(g.Topics) == 0 {
		k.bad(path+".topics", "no-topics", "add topics: [outbox.event.order]", "the group reads no topic")
	}
	for i, t := range g.Topics {
		k.topicName(t, fmt.Sprintf("%s.topics[%d]", path, i))
		if slices.Index(g.Topics, t) != i {
			k.bad(fmt.Sprintf("%s.topics[%d]", path, i), "duplicate-topic", "remove one of them", "topic %s stands twice", t)
		}
	}
	k.into(&g.Into, path+".into")
	if g.Offsets != nil && !g.Offsets.Database().sameAs(g.Into.Database()) {
		k.bad(path+".offsets", "offsets-elsewhere", "remove offsets: they are kept in the sink's database",
			"results and offsets must commit in one transaction, so they must be in one database")
	}
	if len(g.Handle) == 0 {
		k.bad(path+".handle", "no-handler", "add handle: {OrderPlaced: insert into …}, or * for every type", "the group handles nothing")
	}
	k.oneOf(g.OnFailure, path+".on_failure", "block")
	if g.Attempts < 1 || g.Attempts > 1000 {
		k.bad(path+".attempts", "bad-attempts", "write 1 to 1000", "%d attempts", g.Attempts)
	}
	if g.Backoff.Max < g.Backoff.Initial {
		k.bad(path+".backoff.max", "backoff-decreases", "make max at least initial", "the longest wait %s is shorter than the first %s", g.Backoff.Max, g.Backoff.Initial)
	}
	if g.Batch.Records < 1 || g.Batch.Records > 100_000 {
		k.bad(path+".batch.records", "bad-batch", "write 1 to 100000", "batches of %d records", g.Batch.Records)
	}
	k.cycles(name, g)
}

// cycles refuses a handler that feeds the topic it reads: it inserts into an outbox table of its own sink whose rows go there (B15).
// A table whose topic depends on the row may be meant for another topic; that is a warning.
func (k checker) cycles(name string, g *Consumer) {
	for _, sname := range sorted(k.c.Sources) {
		s := k.c.Sources[sname]
		if !g.Into.Database().sameAs(s.Database()) {
			continue
		}
		for _, o := range s.Outbox {
			for _, typ := range sorted(g.Handle) {
				for _, st := range g.Handle[typ] {
					if insertsInto(st.SQL, o.Table) {
						k.cycle(join(join("consumers", name)+".handle", typ), g, o, st)
					}
				}
			}
		}
	}
}

func (k checker) cycle(path string, g *Consumer, o Outbox, st Statement) {
	for _, t := range g.Topics {
		captured, ok := matchTemplate(o.template(), t)
		if !ok {
			continue
		}
		if captured == "" || strings.Contains(st.SQL, "'"+captured+"'") {
			k.bad(path, "consumer-cycle", "write to another outbox table, or read another topic", "the handler inserts into %s, whose rows go to topic %s, which this group reads: each event would make another, for ever", o.Table, t)
			return
		}
		k.warn(k.at(path), path, "consumer-cycle-possible", fmt.Sprintf("the handler inserts into %s; a row whose topic is %s would come back to it", o.Table, t), "make sure that the rows go elsewhere")
	}
}

func insertsInto(sql, table string) bool {
	_, bare, _ := strings.Cut(table, ".")
	re := regexp.MustCompile(`(?is)\binsert\s+into\s+"?(?:` + regexp.QuoteMeta(table) + `|` + regexp.QuoteMeta(bare) + `)"?(?:[\s("]|$)`)
	return re.MatchString(sql)
}

// matchTemplate reports whether a topic template can give the topic, and what its holes would hold.
func matchTemplate(template, topic string) (captured string, ok bool) {
	var re strings.Builder
	re.WriteString("^")
	last := 0
	for _, m := range holeRE.FindAllStringIndex(template, -1) {
		re.WriteString(regexp.QuoteMeta(template[last:m[0]]) + "(.+)")
		last = m[1]
	}
	re.WriteString(regexp.QuoteMeta(template[last:]) + "$")
	m := regexp.MustCompile(re.String()).FindStringSubmatch(topic)
	if m == nil {
		return "", false
	}
	if len(m) > 1 {
		return m[1], true
	}
	return "", true
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
