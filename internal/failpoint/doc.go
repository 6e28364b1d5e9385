// Package failpoint stops the process at named points, so that a test can crash it there. It does nothing, and costs
// nothing, unless the binary is built with the tag failpoints.
//
// Points are named as in docs/failpoints.md. They are armed by the environment variable OUTRELAY_FAILPOINTS,
// a comma-separated list of NAME=VERB[@N]: at the N-th hit (default 1; 0 means every one) do VERB, one of kill, stop, sleep.
// Planted bugs, for tests of the checker, are armed by bug.NAME=on.
package failpoint
