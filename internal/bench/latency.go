package bench

import (
	"context"
	"errors"
)

// Latency is not there yet.
func Latency(context.Context, Options) (*Report, error) { return nil, errors.New("not there yet") }
