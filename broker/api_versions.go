package broker

import (
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions, key 18: v0–4
//
//   - v0 answers any version that is not served, with UNSUPPORTED_VERSION and this key's own range, so that the client can try
//     again (KIP-511)
//   - v3: flexible, client software (KIP-511), features (KIP-584). The answer's header stays v0
//   - v4: features with minimum version 0 (KIP-1022)
//
// Only what is served is advertised. transaction.version is 2 unless UpdateFeatures lowered it, so clients use Produce v12 and EndTxn v5
// (KIP-890).

// softwareName is what KIP-511 allows as a client's name and version.
var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

func handleAPIVersions(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ApiVersionsRequest)
	resp := req.ResponseKind().(*kmsg.ApiVersionsResponse)
	if req.Version >= 3 && !(softwareName.MatchString(req.ClientSoftwareName) && softwareName.MatchString(req.ClientSoftwareVersion)) {
		resp.ErrorCode = kerr.InvalidRequest.Code
		return answer(resp)
	}
	for _, a := range sortedAPIs(s.apis) {
		resp.ApiKeys = append(resp.ApiKeys, apiRange(a))
	}
	if req.Version >= 3 {
		s.addFeatures(resp)
	}
	return answer(resp)
}

func apiRange(a *api) kmsg.ApiVersionsResponseApiKey {
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.min, a.max
	return k
}

// unsupported answers a version that is not served, or returns nil where the client must find out by ApiVersions.
func (s *Server) unsupported(a *api, h header) pending {
	if h.key == 18 {
		resp := &kmsg.ApiVersionsResponse{Version: 0, ErrorCode: kerr.UnsupportedVersion.Code}
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{apiRange(a)}
		return answer(resp)
	}
	return nil
}
