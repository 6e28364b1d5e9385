package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// feature is a part of the protocol whose level the whole cluster agrees on (KIP-584). What this version can do is min to max; the level in
// force is what group 0 says, and until it says something the highest: clients read it from ApiVersions and choose by it.
type feature struct {
	name     string
	min, max int16
}

const featureGroups = "group.version"

// servedFeatures returns the features, by name.
func servedFeatures() []feature {
	return []feature{
		// 1: consumer groups (KIP-848). Level 0 refuses their heartbeats, and clients use the classic protocol.
		{name: featureGroups, min: 0, max: 1},
		// 2: each transaction has its own epoch (KIP-890). Requests of older transactions are served whatever the level.
		{name: "transaction.version", min: 0, max: 2},
	}
}

// level returns the level in force; 0 means that the feature is off.
func (f feature) level(st *cluster.State) int16 {
	if l, ok := st.Features[f.name]; ok {
		return max(f.min, min(l, f.max))
	}
	return f.max
}

// featureLevel returns the level in force of the named feature; 0 when there is no such.
func (s *Server) featureLevel(name string) int16 {
	for _, f := range servedFeatures() {
		if f.name == name {
			return f.level(s.machine.State())
		}
	}
	return 0
}

// addFeatures says in an answer to ApiVersions what is served and what is in force.
func (s *Server) addFeatures(resp *kmsg.ApiVersionsResponse) {
	st := s.machine.State()
	for _, f := range servedFeatures() {
		sf := kmsg.NewApiVersionsResponseSupportedFeature()
		sf.Name, sf.MinVersion, sf.MaxVersion = f.name, f.min, f.max
		if resp.Version < 4 {
			sf.MinVersion = max(sf.MinVersion, 1) // clients of v3 take 0 for an error (KIP-1022)
		}
		resp.SupportedFeatures = append(resp.SupportedFeatures, sf)
		if l := f.level(st); l > 0 {
			ff := kmsg.NewApiVersionsResponseFinalizedFeature()
			ff.Name, ff.MinVersionLevel, ff.MaxVersionLevel = f.name, l, l
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, ff)
		}
	}
	resp.FinalizedFeaturesEpoch = int64(st.Version)
}
