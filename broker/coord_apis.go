package broker

// coordinatorAPIs returns the rows of the API table that the group and transaction coordinators serve.
func (s *Server) coordinatorAPIs() []api { return nil }
