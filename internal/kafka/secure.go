package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outrelay/outrelay"
)

// TLSFiles says how brokers are verified and how a client shows who it is. The zero value verifies by the system's authorities.
type TLSFiles struct {
	CA, Cert, Key string // PEM files; Cert and Key go together
	ServerName    string // empty: the name by which a broker is dialled
}

// Config returns a configuration that reads the client's certificate again for each connection, and the authorities once.
func (f TLSFiles) Config() (*tls.Config, error) {
	c := &tls.Config{ServerName: f.ServerName, MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("authorities of the log: %w: %w", outrelay.ErrEnvironment, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities of the log: %s holds no certificate in PEM: %w", f.CA, outrelay.ErrConfig)
		}
	}
	if f.Cert != "" {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			return &cert, err
		}
	}
	return c, nil
}

// Mechanism returns a SASL mechanism, PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, that asks for the password at each connection, so that a rotated one is used.
func Mechanism(name, user string, password func() (string, error)) (sasl.Mechanism, error) {
	switch name {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: user, Pass: p}, err
		}), nil
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		auth := func(context.Context) (scram.Auth, error) {
			p, err := password()
			return scram.Auth{User: user, Pass: p}, err
		}
		if name == "SCRAM-SHA-256" {
			return scram.Sha256(auth), nil
		}
		return scram.Sha512(auth), nil
	}
	return nil, fmt.Errorf("SASL mechanism %q: %w: it is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", name, outrelay.ErrConfig)
}
