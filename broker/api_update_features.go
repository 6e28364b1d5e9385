package broker

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/cluster"
)

// UpdateFeatures, key 57: v0–2
//
//   - v0: KIP-584; v1: validate only, kinds of upgrade (KIP-778); v2: one result for all (KIP-1022)
//
// All of a request's changes come into force, or none. Level 0 turns a feature off.

// upgradeOnly is the kind of update that may not lower a level; 2 and 3, safe and unsafe downgrades, are the same here: nothing
// that is stored depends on a level.
const (
	upgradeOnly int8 = 1
	upgradeLast int8 = 3
)

func handleUpdateFeatures(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.UpdateFeaturesRequest)
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, req.TimeoutMillis)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.UpdateFeaturesResponse)
		levels, err := featureLevels(s.machine.State(), req)
		if err == nil && !req.ValidateOnly && len(levels) > 0 {
			err = s.cluster.SetFeatures(ctx, levels)
		}
		if err != nil {
			resp.ErrorCode = kafkaError(err).Code
			resp.ErrorMessage = new(fmt.Sprintf("no feature was updated: %s", errorText(err)))
			return resp
		}
		for i := range req.FeatureUpdates {
			r := kmsg.NewUpdateFeaturesResponseResult()
			r.Feature = req.FeatureUpdates[i].Feature
			resp.Results = append(resp.Results, r)
		}
		return resp
	}
}

// featureLevels returns the levels that change, or why the request is refused.
func featureLevels(st *cluster.State, req *kmsg.UpdateFeaturesRequest) (map[string]int16, error) {
	levels, seen := map[string]int16{}, map[string]bool{}
	for i := range req.FeatureUpdates {
		u := &req.FeatureUpdates[i]
		if seen[u.Feature] {
			return nil, invalid(kerr.InvalidRequest, "feature %q stands twice in the request", u.Feature)
		}
		seen[u.Feature] = true
		at := slices.IndexFunc(servedFeatures(), func(f feature) bool { return f.name == u.Feature })
		if at < 0 {
			return nil, invalid(kerr.InvalidUpdateVersion, "there is no feature %q", u.Feature)
		}
		f := servedFeatures()[at]
		kind := u.UpgradeType
		if req.Version == 0 {
			if kind = upgradeOnly; u.AllowDowngrade {
				kind = upgradeLast
			}
		}
		now, want := f.level(st), u.MaxVersionLevel
		switch {
		case kind < upgradeOnly || kind > upgradeLast:
			return nil, invalid(kerr.InvalidUpdateVersion, "feature %s: kind of upgrade %d, from 1 to 3 there are", f.name, kind)
		case want < f.min || want > f.max:
			return nil, invalid(kerr.InvalidUpdateVersion, "feature %s: level %d, from %d to %d are served", f.name, want, f.min, f.max)
		case want < now && kind == upgradeOnly:
			return nil, invalid(kerr.InvalidUpdateVersion, "feature %s: level %d is in force, and this is no downgrade", f.name, now)
		case want > now && kind != upgradeOnly:
			return nil, invalid(kerr.InvalidUpdateVersion, "feature %s: level %d is in force, and %d is no downgrade", f.name, now, want)
		case want != now:
			levels[f.name] = want
		}
	}
	return levels, nil
}
