package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/kafka"
)

// cliRequestTimeout is how long a verb waits for a log that does not answer.
const cliRequestTimeout = 10 * time.Second

// LogOptions says how the log of a configuration is reached over TCP: log.kafka, or the broker's own listener. seeds, where it is not empty, replaces
// the addresses.
func LogOptions(c *config.Config, seeds ...string) (kafka.Options, error) {
	k := c.Log.Kafka
	o := kafka.Options{Seeds: seeds, ClientID: k.ClientID, Prefix: k.Prefix, ReplicationFactor: k.ReplicationFactor, MinInsyncReplicas: k.MinInsyncReplicas}
	switch {
	case len(seeds) > 0:
	case c.Log.External():
		o.Seeds = k.Brokers
	default:
		o.Seeds = []string{c.Broker.Listen}
	}
	if !c.Log.External() {
		return o, ownLog(c, &o)
	}
	var err error
	if k.TLS.On() {
		if o.TLS, err = (kafka.TLSFiles{CA: k.TLS.CA, Cert: k.TLS.Cert, Key: k.TLS.Key, ServerName: k.TLS.ServerName}).Config(); err != nil {
			return o, err
		}
	}
	if k.SASL.IsZero() {
		return o, nil
	}
	place := c.Place("log.kafka.sasl.password")
	m, err := kafka.Mechanism(k.SASL.Mechanism, k.SASL.User, func() (string, error) {
		p, err := k.SASL.Password.Resolve()
		if err != nil {
			return "", &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "log-password", Place: place, Cause: "the log's password", Err: err}
		}
		return p, nil
	})
	if err != nil {
		return o, err
	}
	o.SASL = append(o.SASL, m)
	return o, nil
}

// CLI returns o with what a verb that runs once needs: a client id of its own, and no long wait.
func CLI(o kafka.Options, clientID string) kafka.Options {
	if o.ClientID == "" {
		o.ClientID = clientID
	}
	o.RequestTimeout = cliRequestTimeout
	return o
}

// kafkaOptions says how this process reaches its log: in memory when the broker is here, else over TCP. One protocol inside (D1).
func (d *Daemon) kafkaOptions() (kafka.Options, error) {
	log := d.log.With("part", "kafka")
	if s := d.broker(); s != nil {
		return kafka.Options{Seeds: []string{s.InternalAddr()}, Dialer: s.Dialer(), Logger: log}, nil
	}
	o, err := LogOptions(d.c)
	o.Logger = log
	return o, err
}

// meetLog asks the log for its id, and an external one for what it is.
func (d *Daemon) meetLog(ctx context.Context, cl *kgo.Client) (id string, err error) {
	if d.broker() != nil {
		return kafka.ClusterID(ctx, cl)
	}
	s, err := kafka.Describe(ctx, cl)
	if err != nil {
		return "", err
	}
	if s.ClusterID == "" {
		return "", fmt.Errorf("the log has no cluster id: %w", outrelay.ErrEnvironment)
	}
	if d.describedLog() == nil {
		d.log.Info("log is reached", "version", s.Version, "log_id", s.ClusterID, "brokers", s.Brokers, "transaction_version", s.TransactionVersion)
		for _, g := range s.Guarantees() {
			if !g.Holds {
				d.log.Warn("the log does not give what outrelay's own would", "limit", g.Text)
			}
		}
	}
	d.set(func() { d.external = &s })
	return s.ClusterID, nil
}

func (d *Daemon) describedLog() *kafka.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.external
}

// DescribeLog asks the log of a configuration what it is.
func DescribeLog(ctx context.Context, c *config.Config) (kafka.Server, error) {
	o, err := LogOptions(c)
	if err != nil {
		return kafka.Server{}, err
	}
	cl, err := kafka.NewClient(CLI(o, "outrelay-validate"))
	if err != nil {
		return kafka.Server{}, err
	}
	defer cl.Close()
	return kafka.Describe(ctx, cl)
}
