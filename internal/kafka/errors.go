package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay"
)

// Class returns the outrelay class of an error that a client returned: ErrFenced, ErrRecord, ErrEnvironment or
// ErrTransient. It returns nil for nil, the class itself for an error that carries one, and the context's error for a context that ended.
func Class(err error) error {
	if err == nil {
		return nil
	}
	for _, c := range []error{
		outrelay.ErrDataHalt, outrelay.ErrConfig, outrelay.ErrFenced, outrelay.ErrRecord, outrelay.ErrEnvironment, outrelay.ErrTransient,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, c) {
			return c
		}
	}
	var ke *kerr.Error
	if !errors.As(err, &ke) {
		return outrelay.ErrTransient // connections, dials, EOFs
	}
	switch ke {
	case kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.FencedInstanceID, kerr.TransactionCoordinatorFenced:
		return outrelay.ErrFenced
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTopicException:
		return outrelay.ErrRecord
	case kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
		kerr.TransactionalIDAuthorizationFailed, kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism,
		kerr.UnsupportedVersion, kerr.PolicyViolation, kerr.InvalidTransactionTimeout, kerr.InvalidSessionTimeout,
		kerr.InvalidReplicationFactor, kerr.InvalidPartitions, kerr.InvalidConfig:
		return outrelay.ErrEnvironment
	}
	return outrelay.ErrTransient
}

// wrap adds the place and the class to err.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	c := Class(err)
	if errors.Is(err, c) {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	return fmt.Errorf("%s: %w: %w", fmt.Sprintf(format, args...), c, err)
}

// Wrap adds the place and, where it has none yet, the class to an error that a client returned.
func Wrap(err error, place string) error { return wrap(err, "%s", place) }
