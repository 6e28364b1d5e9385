package cluster

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Error is a refusal: the Kafka error code for the client, and a sentence for the person. errors.As finds the *kerr.Error.
type Error struct {
	Kafka *kerr.Error
	Text  string
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the Kafka error.
func (e *Error) Unwrap() error { return e.Kafka }

func errorf(k *kerr.Error, format string, args ...any) *Error {
	return &Error{Kafka: k, Text: fmt.Sprintf(format, args...)}
}
