package outrelay

import (
	"errors"
	"strings"
)

// The classes of error. Exit codes and the decision to retry follow from the class alone; find it with errors.Is.
var (
	// ErrConfig: the configuration cannot be used. Exit code 2.
	ErrConfig = errors.New("configuration error")
	// ErrEnvironment: something outside outrelay is missing or set up wrongly (a server, a privilege, a port). Exit code 3.
	ErrEnvironment = errors.New("environment error")
	// ErrDataHalt: going on would lose, repeat or reorder events, so a person must decide. Exit code 4. Never retried.
	ErrDataHalt = errors.New("data halt")
	// ErrPositionLost: the database no longer holds the log at our position. A data halt.
	ErrPositionLost = errors.New("position lost")
	// ErrFenced: a newer owner has taken over; what this one was doing must be dropped, not retried.
	ErrFenced = errors.New("fenced")
	// ErrTransient: trying again later may work (a connection lost, a server restarting, a deadlock).
	ErrTransient = errors.New("transient error")
	// ErrRecord: one record cannot be handled, whatever the time: a constraint, a cast, a payload that is no JSON.
	ErrRecord = errors.New("record error")
)

// Error is an error that guides: what kind, where, why, and what to do about it.
type Error struct {
	Class error  // one of the sentinels above
	Code  string // stable, for scripts and docs: "slot-missing"
	Place string // where: "source shop", "outrelay.yaml:12:5"
	Cause string // what is wrong, with the server's own words where it said something. Never a secret.
	Fix   string // what to do: a YAML path, the SQL to run, a command
	Err   error  // the error underneath, if any
}

// Error returns "place: cause [code]; fix".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Place != "" {
		b.WriteString(e.Place)
		b.WriteString(": ")
	}
	b.WriteString(e.Cause)
	if e.Err != nil {
		if e.Cause != "" {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	if e.Code != "" {
		b.WriteString(" [")
		b.WriteString(e.Code)
		b.WriteString("]")
	}
	if e.Fix != "" {
		b.WriteString("; ")
		b.WriteString(e.Fix)
	}
	return b.String()
}

// Unwrap makes errors.Is find the class and the cause. ErrPositionLost is also ErrDataHalt.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Class != nil {
		errs = append(errs, e.Class)
	}
	if errors.Is(e.Class, ErrPositionLost) {
		errs = append(errs, ErrDataHalt)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

// ExitCode returns the process exit code that err's class asks for: 0 ok, 1 runtime, 2 configuration, 3 environment,
// 4 data halt.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrConfig):
		return 2
	case errors.Is(err, ErrDataHalt), errors.Is(err, ErrPositionLost):
		return 4
	case errors.Is(err, ErrEnvironment):
		return 3
	}
	return 1
}
