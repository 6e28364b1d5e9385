package broker_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/brokertest"
)

// levelOf returns the finalized level of a feature; 0 when there is none.
func levelOf(c *rawConn, name string) int16 {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1"
	for _, f := range request[*kmsg.ApiVersionsResponse](c, req, 4).FinalizedFeatures {
		if f.Name == name {
			return f.MaxVersionLevel
		}
	}
	return 0
}

func TestUpdateFeatures(t *testing.T) {
	t.Parallel()
	const tv = "transaction.version"
	type update = kmsg.UpdateFeaturesRequestFeatureUpdate
	n := brokertest.New(t)
	versions(t, 57, n, func(t *testing.T, c *rawConn, v int16) {
		for _, tc := range []struct {
			name     string
			updates  []update
			validate bool
			code     int16
			level    int16 // afterwards
		}{
			{"nothing", nil, false, 0, 2},
			{"as it is", []update{{Feature: tv, MaxVersionLevel: 2, UpgradeType: 1}}, false, 0, 2},
			{"unknown feature", []update{{Feature: "no.version", MaxVersionLevel: 1, UpgradeType: 1}}, false, kerr.InvalidUpdateVersion.Code, 2},
			{"level not served", []update{{Feature: tv, MaxVersionLevel: 3, UpgradeType: 1}}, false, kerr.InvalidUpdateVersion.Code, 2},
			{"level below zero", []update{{Feature: tv, MaxVersionLevel: -1, UpgradeType: 2, AllowDowngrade: true}}, false, kerr.InvalidUpdateVersion.Code, 2},
			{"lowered by an upgrade", []update{{Feature: tv, MaxVersionLevel: 1, UpgradeType: 1}}, false, kerr.InvalidUpdateVersion.Code, 2},
			{
				"twice", []update{{Feature: tv, MaxVersionLevel: 1, UpgradeType: 2, AllowDowngrade: true}, {Feature: tv, MaxVersionLevel: 2, UpgradeType: 1}},
				false, kerr.InvalidRequest.Code, 2,
			},
			{
				"one of two is wrong",
				[]update{{Feature: tv, MaxVersionLevel: 1, UpgradeType: 2, AllowDowngrade: true}, {Feature: "no.version", MaxVersionLevel: 2, UpgradeType: 1}},
				false, kerr.InvalidUpdateVersion.Code, 2,
			},
			{"validated only", []update{{Feature: tv, MaxVersionLevel: 1, UpgradeType: 2}}, true, 0, 2},
			{"lowered", []update{{Feature: tv, MaxVersionLevel: 1, UpgradeType: 2, AllowDowngrade: true}}, false, 0, 1},
			{"raised by a downgrade", []update{{Feature: tv, MaxVersionLevel: 2, UpgradeType: 3, AllowDowngrade: true}}, false, kerr.InvalidUpdateVersion.Code, 1},
			{"off", []update{{Feature: tv, MaxVersionLevel: 0, UpgradeType: 3, AllowDowngrade: true}}, false, 0, 0},
			{"raised", []update{{Feature: tv, MaxVersionLevel: 2, UpgradeType: 1}}, false, 0, 2},
		} {
			if v == 0 && tc.validate {
				continue
			}
			req := kmsg.NewPtrUpdateFeaturesRequest()
			req.FeatureUpdates, req.ValidateOnly = tc.updates, tc.validate
			r := request[*kmsg.UpdateFeaturesResponse](c, req, v)
			if r.ErrorCode != tc.code || (r.ErrorMessage == nil) != (tc.code == 0) {
				t.Errorf("%s, v%d: %+v", tc.name, v, r)
			}
			if want := len(tc.updates); v < 2 && tc.code == 0 && len(r.Results) != want {
				t.Errorf("%s, v%d: %d results", tc.name, v, len(r.Results))
			}
			if got := levelOf(c, tv); got != tc.level {
				t.Errorf("%s, v%d: level %d", tc.name, v, got)
			}
		}
	})
}

// A level that was set is in force after a power cut, and after a checkpoint took the place of the command.
func TestUpdateFeatures_survives(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	req := kmsg.NewPtrUpdateFeaturesRequest()
	req.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "transaction.version", MaxVersionLevel: 1, UpgradeType: 2}}
	if r := request[*kmsg.UpdateFeaturesResponse](c, req, 2); r.ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	for _, again := range []func(){n.CrashRestart, n.Restart} {
		again()
		if got := levelOf(dialRaw(t, n), "transaction.version"); got != 1 {
			t.Errorf("level %d after a restart", got)
		}
	}
}
