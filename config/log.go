package config

import (
	"crypto/tls"
	"fmt"
	"os"
	"regexp"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"
)

// Log says where the log is when it is not in this process.
type Log struct {
	Kafka Kafka `yaml:"kafka,omitempty" jsonschema_description:"An external Kafka, or another outrelay: a list of addresses, or a mapping."`
}

// Kafka is an external log. In the file it is a list of addresses, or a mapping.
type Kafka struct {
	Brokers           []string `yaml:"brokers" jsonschema_description:"Addresses of brokers of the cluster; one that answers is enough." example:"[kafka-1:9092, kafka-2:9092]"`
	TLS               TLS      `yaml:"tls,omitempty" jsonschema_description:"TLS to the brokers; {} verifies them by the system's authorities."`
	SASL              SASL     `yaml:"sasl,omitempty" jsonschema_description:"Authentication."`
	ClientID          string   `yaml:"client_id,omitempty" jsonschema_description:"Client id of all connections, as quotas and logs of the cluster see it. Default: outrelay, with the part that connects." example:"shop-outrelay"`
	Prefix            string   `yaml:"prefix,omitempty" jsonschema_description:"Stands before the names of outrelay's own topics, group and transactional ids, so that several installations share a cluster." example:"shop."`
	ReplicationFactor int      `yaml:"replication_factor,omitempty" jsonschema_description:"Of topics that outrelay creates. Default: the cluster's." example:"3"`
	MinInsyncReplicas int      `yaml:"min_insync_replicas,omitempty" jsonschema_description:"Of topics that outrelay creates. Default: the cluster's." example:"2"`
}

// TLS says how brokers are verified and how we show who we are. Files are read again for each connection.
type TLS struct {
	CA         string `yaml:"ca,omitempty" jsonschema_description:"PEM file of the authorities that sign the brokers' certificates. Default: the system's." example:"/etc/outrelay/ca.pem"`
	Cert       string `yaml:"cert,omitempty" jsonschema_description:"PEM file of our certificate, for clusters that ask for one." example:"/etc/outrelay/client.pem"`
	Key        string `yaml:"key,omitempty" jsonschema_description:"PEM file of its key." example:"/etc/outrelay/client.key"`
	ServerName string `yaml:"server_name,omitempty" jsonschema_description:"Name that the brokers' certificates must bear, where it is not their address." example:"kafka.internal"`
	Pos        Pos    `yaml:"-"`

	given bool
}

// SASL says how we authenticate.
type SASL struct {
	Mechanism string   `yaml:"mechanism" jsonschema_description:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. PLAIN needs tls." example:"SCRAM-SHA-512" jsonschema:"enum=PLAIN,enum=SCRAM-SHA-256,enum=SCRAM-SHA-512"`
	User      string   `yaml:"user" jsonschema_description:"User name." example:"outrelay"`
	Password  Password `yaml:"password" jsonschema_description:"Password; it is resolved again for each connection." example:"${env:KAFKA_PASSWORD}"`
}

// On reports whether TLS was asked for, be it by an empty mapping.
func (t TLS) On() bool {
	return t.given || t.CA != "" || t.Cert != "" || t.Key != "" || t.ServerName != ""
}

// IsZero keeps what was not asked for out of the output.
func (t TLS) IsZero() bool { return !t.On() }

// IsZero keeps what was not asked for out of the output.
func (s SASL) IsZero() bool { return s.Mechanism == "" && s.User == "" && s.Password.IsZero() }

// External reports whether the log is not this process's own.
func (l Log) External() bool { return len(l.Kafka.Brokers) > 0 }

// IsZero keeps what was not asked for out of the output.
func (l Log) IsZero() bool { return !l.External() }

func (t *TLS) decodeNode(d *decoder, n *yaml.Node, path string) {
	type fields TLS // without this method
	t.given = n.Kind == yaml.MappingNode
	decodeFields(d, n, (*fields)(t), path)
}

func (k *Kafka) decodeNode(d *decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.SequenceNode {
		decodeFields(d, n, &k.Brokers, path)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "wrong-type", "expected a list of addresses or a mapping, found "+kindOf(n), "write [kafka-1:9092], or brokers: [kafka-1:9092] with tls, sasl and more beside it")
		return
	}
	type fields Kafka // without this method
	decodeFields(d, n, (*fields)(k), path)
}

// MarshalYAML writes the list where there is nothing but addresses.
func (k Kafka) MarshalYAML() (any, error) {
	type fields Kafka
	if k.TLS.IsZero() && k.SASL.IsZero() && k.ClientID == "" && k.Prefix == "" && k.ReplicationFactor == 0 && k.MinInsyncReplicas == 0 {
		return k.Brokers, nil
	}
	return fields(k), nil
}

// JSONSchema describes a list of addresses or a mapping.
func (Kafka) JSONSchema() *jsonschema.Schema {
	type fields Kafka
	r := jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Anonymous: true, DoNotReference: true}
	mapping := r.Reflect(&fields{})
	mapping.Version = ""
	address := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "array", Items: address}, mapping}}
}

var prefixRE = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,100}$`)

// externalLog checks log.kafka.
func (k checker) externalLog() {
	c := k.c.Log.Kafka
	if !k.c.Log.External() {
		if k.c.has("log.kafka") {
			k.bad("log.kafka", "no-brokers", "write brokers: [kafka-1:9092]", "log.kafka names no broker")
		}
		return
	}
	for i, a := range c.Brokers {
		path := fmt.Sprintf("log.kafka.brokers[%d]", i)
		if !k.c.has(path) {
			path = fmt.Sprintf("log.kafka[%d]", i)
		}
		k.address(a, path)
	}
	if !prefixRE.MatchString(c.Prefix) {
		k.bad("log.kafka.prefix", "bad-prefix", "up to 100 letters, digits, dots, underscores and hyphens", "%q cannot begin the name of a topic", clip(c.Prefix))
	}
	if c.ReplicationFactor < 0 || c.ReplicationFactor > 100 {
		k.bad("log.kafka.replication_factor", "replication-factor", "write 3, or leave it out", "replication factor %d", c.ReplicationFactor)
	}
	if c.MinInsyncReplicas < 0 || c.ReplicationFactor > 0 && c.MinInsyncReplicas > c.ReplicationFactor {
		k.bad("log.kafka.min_insync_replicas", "min-insync-replicas", "write less than replication_factor, as 2 of 3", "%d replicas in sync of %d: nothing could be written", c.MinInsyncReplicas, c.ReplicationFactor)
	}
	k.clientTLS(c.TLS, "log.kafka.tls")
	k.clientSASL(c.SASL, c.TLS.On(), "log.kafka.sasl")
}

func (k checker) clientTLS(t TLS, path string) {
	if (t.Cert == "") != (t.Key == "") {
		k.bad(path, "tls-half", "write both cert and key, or neither", "a certificate needs its key")
		return
	}
	if t.CA != "" {
		if _, err := os.ReadFile(t.CA); err != nil {
			k.bad(path+".ca", "tls-file", "name a PEM file that outrelay may read", "%v", err)
		}
	}
	if t.Cert != "" {
		if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
			k.bad(path+".cert", "tls-file", "name PEM files of a certificate and of the key that belongs to it", "%v", err)
		}
	}
}

func (k checker) clientSASL(s SASL, secure bool, path string) {
	if s.IsZero() {
		if k.c.has(path) {
			k.bad(path, "sasl-empty", "write mechanism, user and password", "nothing is said")
		}
		return
	}
	k.oneOf(s.Mechanism, path+".mechanism", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
	if s.User == "" {
		k.bad(path+".user", "no-user", "write user: outrelay", "there is no user")
	}
	if s.Password.IsZero() && !k.c.has(path+".password") {
		k.bad(path+".password", "no-password", "write password: ${env:KAFKA_PASSWORD}", "there is no password")
	}
	if !s.Password.IsZero() && !s.Password.IsReference() {
		k.warn(k.at(path+".password"), path+".password", "secret-in-file", "the password stands in the file", "put it into an environment variable or a file and write ${env:NAME} or ${file:/path}")
	}
	if s.Mechanism == "PLAIN" && !secure {
		k.bad(path+".mechanism", "plain-in-clear", "add tls: {}, or use SCRAM-SHA-512", "PLAIN without TLS sends the password in clear")
	}
}
