package bench

import (
	"context"
	"errors"
)

// Sink is not there yet.
func Sink(context.Context, Options) (*Report, error) { return nil, errors.New("not there yet") }
