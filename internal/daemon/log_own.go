package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/kafka"
)

// ownLog lets who has the operator's file into the broker that it describes: it trusts the very certificate that the file names, and is the first
// super user that has a password there.
func ownLog(c *config.Config, o *kafka.Options) error {
	b := &c.Broker
	if b.TLS.On() {
		conf, err := trustOf(b.TLS.Cert, b.Advertise)
		if err != nil {
			return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "tls-file", Place: c.Place("broker.tls.cert"), Cause: "the listener's certificate", Err: err}
		}
		o.TLS = conf
	}
	if len(b.SASL) == 0 {
		return nil
	}
	name := firstSuper(b.Users)
	if name == "" {
		return nil // the flags say who it is, or the log refuses
	}
	password := b.Users[name].Password
	m, err := kafka.Mechanism(b.SASL[0], name, password.Resolve)
	if err != nil {
		return err
	}
	o.SASL = append(o.SASL, m)
	return nil
}

// firstSuper returns the first super user with a password, by name; empty when there is none.
func firstSuper(users map[string]*config.User) string {
	var names []string
	for name, u := range users {
		if u.Super && !u.Password.IsZero() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}

// trustOf returns a client's configuration that takes the certificates in a file beside the system's authorities. The name that is verified is the one
// clients are told, or one that the certificate bears: the address listened on may be a wildcard.
func trustOf(file, advertise string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if host, _, err := net.SplitHostPort(advertise); err == nil {
		c.ServerName = host
		return c, nil
	}
	if leaf := firstCertificate(text); leaf != nil {
		switch {
		case len(leaf.DNSNames) > 0:
			c.ServerName = leaf.DNSNames[0]
		case len(leaf.IPAddresses) > 0:
			c.ServerName = leaf.IPAddresses[0].String()
		}
	}
	return c, nil
}

// firstCertificate returns the first certificate of a PEM file, which is the one that is shown; nil when there is none.
func firstCertificate(text []byte) *x509.Certificate {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil
		}
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil
			}
			return cert
		}
	}
}

// Login returns o as another client: with a certificate authority or a certificate of its own, or as a user whose password stands in a file.
func Login(o kafka.Options, files kafka.TLSFiles, user, passwordFile string) (kafka.Options, error) {
	if files != (kafka.TLSFiles{}) {
		var err error
		if o.TLS, err = files.Config(); err != nil {
			return o, err
		}
	}
	if user == "" {
		return o, nil
	}
	m, err := kafka.Mechanism("SCRAM-SHA-256", user, config.NewSecret("${file:"+passwordFile+"}").Resolve)
	if err != nil {
		return o, err
	}
	o.SASL = []sasl.Mechanism{m}
	return o, nil
}
