// Package compose_test reads docker-compose.yml as Compose does and checks every image, port, volume and health check it names. No
// container engine is needed.
package compose_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/outrelay/outrelay/config"
)

const root = "../.."

func project(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")}, cli.WithoutEnvironmentResolution)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose_ServicesAreComplete(t *testing.T) {
	t.Parallel()
	p := project(t)
	if names := p.ServiceNames(); !slices.Equal(names, []string{"outrelay", "postgres"}) {
		t.Fatalf("services %v", names)
	}
	for name, s := range p.Services {
		if s.Image == "" || strings.HasSuffix(s.Image, ":latest") || !strings.Contains(s.Image, ":") {
			t.Errorf("%s: image %q has no version", name, s.Image)
		}
		if s.HealthCheck == nil || len(s.HealthCheck.Test) < 2 || s.HealthCheck.Interval == nil || s.HealthCheck.Timeout == nil || s.HealthCheck.Retries == nil {
			t.Errorf("%s: health check %+v is not complete", name, s.HealthCheck)
		}
		if len(s.Ports) > 0 {
			t.Errorf("%s publishes %v: the listeners have no authentication yet", name, s.Ports)
		}
		if s.Privileged {
			t.Errorf("%s is privileged", name)
		}
	}
}

func TestCompose_VolumesExist(t *testing.T) {
	t.Parallel()
	p := project(t)
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeVolume:
				if _, ok := p.Volumes[v.Source]; !ok {
					t.Errorf("%s: volume %s is not declared", name, v.Source)
				}
			case types.VolumeTypeBind:
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if !v.ReadOnly {
					t.Errorf("%s: %s may be written from the container", name, v.Source)
				}
			default:
				t.Errorf("%s: volume of type %s", name, v.Type)
			}
		}
	}
}

// TestCompose_SidecarReachesItsDatabases: what the file gives the sidecar makes its configuration valid, and the sidecar's command, data
// directory and health check are those of the image.
func TestCompose_SidecarReachesItsDatabases(t *testing.T) {
	p := project(t)
	s := p.Services["outrelay"]
	if s.NetworkMode != "service:postgres" {
		t.Errorf("network mode %q: the connection strings name the loopback", s.NetworkMode)
	}
	if d := s.DependsOn["postgres"]; d.Condition != types.ServiceConditionHealthy {
		t.Errorf("starts when postgres is %q", d.Condition)
	}
	for k, v := range s.Environment {
		t.Setenv(k, *v)
	}
	c, err := config.Load(config.LoadOptions{File: filepath.Join(root, "examples/orders/outrelay.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join([]string{"CMD", "/outrelay", "status", "--http", c.HTTP.Listen}, " "); strings.Join(s.HealthCheck.Test, " ") != want {
		t.Errorf("health check %v, want %s", s.HealthCheck.Test, want)
	}
	docker, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range s.Volumes {
		if !strings.Contains(string(docker), v.Target) {
			t.Errorf("the image knows nothing of %s", v.Target)
		}
	}
	if !strings.Contains(string(docker), "USER 65532:65532") || strings.Contains(string(docker), "USER root") {
		t.Error("the image runs as root")
	}
}

// TestCompose_PostgresIsReadyForLogicalReplication: the server's flags and its first databases are what the source needs.
func TestCompose_PostgresIsReadyForLogicalReplication(t *testing.T) {
	t.Parallel()
	p := project(t)
	s := p.Services["postgres"]
	if !slices.Contains(s.Command, "wal_level=logical") {
		t.Errorf("command %v", s.Command)
	}
	script, err := os.ReadFile(filepath.Join(root, "examples/orders/postgres-init/10-databases.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, db := range []string{"shop", "warehouse"} {
		if _, err := os.Stat(filepath.Join(root, "examples/orders/postgres-init/sql", db+".sql")); err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(script), db) {
			t.Errorf("the init script does not create %s", db)
		}
		dsn := *p.Services["outrelay"].Environment[strings.ToUpper(db)+"_DSN"]
		if !strings.HasSuffix(dsn, "/"+db) {
			t.Errorf("%s: %s", db, config.Redact(dsn))
		}
	}
}
