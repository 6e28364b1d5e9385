package mysql

import "testing"

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{
		"8.0.11": true, "8.4.3": true, "9.7.4-2": true, "10.6.0-MariaDB": true, "10.11.19-MariaDB-0+deb12u1-log": true, "11.8.1-MariaDB": true, "12.0.2-MariaDB": true,
		"5.7.44-log": false, "5.5.5-10.5.9-MariaDB": false, "10.5.29-MariaDB": false,
	} {
		if err := checkVersion("sink", version); (err == nil) != ok {
			t.Errorf("%s: %v", version, err)
		}
	}
}
