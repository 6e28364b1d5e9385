package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/outrelay/outrelay/internal/topicname"
)

// LoadOptions says where a configuration comes from.
type LoadOptions struct {
	File    string         // path; empty: ./outrelay.yaml
	NoFile  bool           // no file is read: everything is default, environment or flag
	Flags   *pflag.FlagSet // flags named as in Overrides layer over the environment, which layers over the file; may be nil
	LogOnly bool           // the broker alone: a configuration without sources and consumers is complete
}

// DefaultFile is the file that is read when none is named.
const DefaultFile = "outrelay.yaml"

// override is a setting that the environment and flags may replace: the scalar settings outside of named things.
type override struct {
	Key  string // as in the file: broker.listen
	Env  string // OUTRELAY_BROKER_LISTEN
	Flag string // kafka-listen; empty: none
	Doc  string
	set  func(*decoder, *yaml.Node)
}

// Override names a setting that the environment and flags may replace.
type Override struct{ Key, Env, Flag, Doc string }

// Overrides lists the settings that the environment and flags may replace, by key.
func Overrides() []Override {
	var list []Override
	for _, o := range (&Config{}).overrides() {
		list = append(list, Override{o.Key, o.Env, o.Flag, o.Doc})
	}
	return list
}

func (c *Config) overrides() []override {
	flags := map[string]string{"data": "data", "broker.listen": "kafka-listen", "http.listen": "http-listen"}
	var list []override
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := yamlKey(f)
			if key == "" || f.Type.Kind() == reflect.Map {
				continue
			}
			key = join(path, key)
			field := v.Field(i)
			if f.Type.Kind() == reflect.Struct {
				_, whole := field.Addr().Interface().(nodeDecoder)
				if _, scalar := field.Addr().Interface().(*Password); !scalar {
					walk(field, key)
				}
				if !whole {
					continue
				}
			}
			list = append(list, override{
				Key: key, Env: "OUTRELAY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")), Flag: flags[key], Doc: f.Tag.Get("jsonschema_description"),
				set: func(d *decoder, n *yaml.Node) {
					if field.Kind() == reflect.Slice {
						field.SetZero()
					}
					d.decode(n, field, key)
				},
			})
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list
}

// Load reads, layers, decodes and validates. The error is a Problems with everything that is wrong, or one of
// class outrelay.ErrConfig that says why the file cannot be read.
func Load(o LoadOptions) (*Config, error) {
	v := viper.New()
	if o.File != "" {
		v.SetConfigFile(o.File)
	} else {
		v.SetConfigName(strings.TrimSuffix(DefaultFile, ".yaml"))
		v.SetConfigType("yaml")
		v.AddConfigPath(".")
	}
	c := &Config{}
	setDefaults(c)
	d := &decoder{positions: map[string]Pos{}}
	if !o.NoFile {
		name := o.File
		if name == "" {
			name = DefaultFile
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, Problems{unreadable(name, err)}
		}
		d.file = name
		if root := d.parse(b); root != nil {
			d.decode(root, reflect.ValueOf(c).Elem(), "")
		}
	}
	c.layer(d, v, o.Flags)
	c.file, c.positions = d.file, d.positions
	fillDefaults(c)
	if !hasSyntaxProblem(d.problems) {
		c.validate(d, o.LogOnly)
	}
	c.warnings = d.warnings
	if len(d.problems) > 0 {
		sort.SliceStable(d.problems, func(i, j int) bool {
			a, b := d.problems[i], d.problems[j]
			return a.Line < b.Line || (a.Line == b.Line && a.Column < b.Column)
		})
		return c, Problems(d.problems)
	}
	return c, nil
}

func hasSyntaxProblem(ps []Problem) bool {
	for _, p := range ps {
		if p.Code == "bad-yaml" || p.Code == "file-too-large" || p.Code == "not-utf8" || p.Code == "too-many-nodes" {
			return true
		}
	}
	return false
}

func unreadable(name string, err error) Problem {
	p := Problem{File: name, Code: "file-unreadable", Cause: err.Error(), Fix: "name the file with -c FILE"}
	if errors.Is(err, fs.ErrNotExist) {
		p.Code, p.Cause = "file-missing", "there is no such file"
		p.Fix = "name it with -c FILE, or see examples/orders for a first one"
	}
	return p
}

// layer puts the environment, then flags, over what the file said. viper knows both; each value goes through the same decoder as the
// file's, and its place is the variable's or the flag's name.
func (c *Config) layer(d *decoder, v *viper.Viper, flags *pflag.FlagSet) {
	file := d.file
	defer func() { d.file = file }()
	for _, o := range c.overrides() {
		_ = v.BindEnv(o.Key, o.Env) // fails only without a key
		from := "environment variable " + o.Env
		if flags != nil && o.Flag != "" {
			if f := flags.Lookup(o.Flag); f != nil && f.Changed {
				_ = v.BindPFlag(o.Key, f)
				from = "flag --" + o.Flag
			}
		}
		if !v.IsSet(o.Key) {
			continue
		}
		d.file = from
		n := &yaml.Node{}
		if err := yaml.Unmarshal([]byte(v.GetString(o.Key)), n); err != nil || len(n.Content) == 0 {
			d.problem(&yaml.Node{}, o.Key, "bad-override", fmt.Sprintf("%q is no value", v.GetString(o.Key)), "write it as it would stand in the file")
			continue
		}
		n = n.Content[0]
		n.Line, n.Column = 0, 0
		o.set(d, n)
	}
}

func setDefaults(c *Config) {
	c.Data = "./outrelay-data"
	c.Broker = Broker{Listen: "127.0.0.1:9092", AutoCreate: true, Partitions: 16, ReplicationFactor: 1,
		Limits:    Limits{Connections: 10_000, ConnectionsPerIP: 1000, ConnectionRatePerIP: 100},
		Groups:    Groups{Session: Duration(45 * time.Second), Heartbeat: Duration(5 * time.Second)},
		Retention: Duration(7 * 24 * time.Hour), Memory: 256 << 20, Scrub: 8 << 20, Reserve: 64 << 20}
	c.HTTP.Listen = "127.0.0.1:8080"
}

// fillDefaults fills what was not written. Where zero is a value that someone may have written, the recorded position tells.
func fillDefaults(c *Config) {
	if len(c.Roles) == 0 {
		c.Roles = []Role{RoleBroker, RoleRelay, RoleConsumers, RoleAdmin}
		if c.Log.External() {
			c.Roles = c.Roles[1:]
		}
	}
	c.fillListeners()
	for name, t := range c.Topics {
		def(&t.Partitions, c.Broker.Partitions, c.has(join("topics", name)+".partitions"))
		def(&t.Retention, c.Broker.Retention, t.Retention != 0)
	}
	for name, s := range c.Sources {
		fillSource(name, s)
		def(&s.Dialect, "debezium", s.Dialect != "")
		def(&s.OnUnroutable, "halt", s.OnUnroutable != "")
		def(&s.AutoCreate, true, c.has(join("sources", name)+".auto_create"))
		def(&s.RecordBytes, 1_000_000, s.RecordBytes != 0)
		def(&s.Compression, "none", s.Compression != "")
		for i := range s.Outbox {
			fillOutbox(c, &s.Outbox[i], fmt.Sprintf("%s.outbox[%d]", join("sources", name), i))
		}
	}
	for name, g := range c.Consumers {
		path := join("consumers", name)
		def(&g.OnFailure, "block", g.OnFailure != "")
		def(&g.Attempts, 5, c.has(path+".attempts"))
		def(&g.Backoff.Initial, Duration(50*time.Millisecond), g.Backoff.Initial != 0)
		def(&g.Backoff.Max, Duration(5*time.Second), g.Backoff.Max != 0)
		def(&g.Backoff.Jitter, Duration(50*time.Millisecond), g.Backoff.Jitter != 0)
		def(&g.Batch.Records, 500, c.has(path+".batch.records"))
		def(&g.Batch.Bytes, 4<<20, g.Batch.Bytes != 0)
	}
}

func fillOutbox(c *Config, o *Outbox, path string) {
	def(&o.Topic, "outbox.event.{aggregatetype}", o.Topic != "" || o.Route != nil)
	def(&o.Partitions, c.Broker.Partitions, c.has(path+".partitions"))
	def(&o.Retention, c.Broker.Retention, o.Retention != 0)
	def(&o.Columns.ID, "id", o.Columns.ID != "")
	def(&o.Columns.AggregateType, "aggregatetype", o.Columns.AggregateType != "")
	def(&o.Columns.Key, "aggregateid", o.Columns.Key != "")
	def(&o.Columns.Type, "type", o.Columns.Type != "")
	def(&o.Columns.Payload, "payload", o.Columns.Payload != "")
	if r := o.Route; r != nil {
		def(&r.By, o.Columns.AggregateType, r.By != "")
		def(&r.Regex, topicname.DefaultRegex, r.Regex != "")
		def(&r.Replacement, topicname.DefaultReplacement, r.Replacement != "")
	}
	for i := range o.Additional {
		def(&o.Additional[i].Place, "header", o.Additional[i].Place != "")
		def(&o.Additional[i].Alias, o.Additional[i].Column, o.Additional[i].Alias != "")
	}
}

func def[T any](field *T, value T, written bool) {
	if !written {
		*field = value
	}
}

func (c *Config) has(path string) bool { _, ok := c.positions[path]; return ok }
