package broker

import "context"

// coordinators is the state of the group and transaction coordinators in the server.
type coordinators struct{}

// openCoordinators starts the coordinators, after the partitions are open and before the first connection is accepted.
func (s *Server) openCoordinators(context.Context) error { return nil }

// closeCoordinators stops them, after the connections were told to end and before the storage is closed. It may be called
// without openCoordinators.
func (s *Server) closeCoordinators() {}
