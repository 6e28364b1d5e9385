package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

func logBackup(a *app) *cobra.Command {
	var data string
	var check bool
	c := &cobra.Command{
		Use: "backup DIR", Short: "Copy a log, in use or not, into a directory of its own", Args: cobra.ExactArgs(1),
		Long: `Copies the data directory as of one moment, with all that was acknowledged before, and a manifest of checksums; then it verifies the copy. The log may be in use: run
it on the same machine, as the same user. With --check it copies nothing, and compares a backup with its manifest. Exit code 4: damage.`,
		Example: "  outrelay log backup /backup/2026-11-25 --data /var/lib/outrelay\n  outrelay log backup /backup/2026-11-25 --check",
		RunE: func(cmd *cobra.Command, args []string) error {
			bar := newBar("reading")
			var m *offline.Manifest
			var err error
			if check {
				m, err = offline.CheckBackup(cmd.Context(), offline.RestoreOptions{Options: offline.Options{FS: vfs.OS{}, Progress: bar.show}, From: args[0]})
			} else {
				dir, derr := a.dataDir(data)
				if derr != nil {
					return derr
				}
				m, err = offline.Backup(cmd.Context(), offline.BackupOptions{Options: offline.Options{FS: vfs.OS{}, Dir: dir, Progress: bar.show}, To: args[0]})
			}
			bar.clear()
			return a.printManifest(args[0], m, err)
		},
	}
	c.Flags().StringVar(&data, "data", "", "data directory (default: data of the file)")
	c.Flags().BoolVar(&check, "check", false, "compare the backup in DIR with its manifest")
	return c
}

func logRestore(a *app) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "restore DIR", Short: "Make a data directory from a backup", Args: cobra.ExactArgs(1),
		Long: `Compares every file of the backup in DIR with its manifest, and makes the data directory, which must not exist yet or be empty. It appears whole or not at all. A log
that was restored ends where the backup did: groups and sinks that are further halt and say so. Exit code 4: the backup is not what was written; nothing was restored.`,
		Example: "  outrelay log restore /backup/2026-11-25 --data /var/lib/outrelay",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.dataDir(data)
			if err != nil {
				return err
			}
			bar := newBar("restoring")
			m, err := offline.Restore(cmd.Context(), offline.RestoreOptions{Options: offline.Options{FS: vfs.OS{}, Dir: dir, Progress: bar.show}, From: args[0]})
			bar.clear()
			return a.printManifest(dir, m, err)
		},
	}
	c.Flags().StringVar(&data, "data", "", "data directory to make (default: data of the file)")
	return c
}

func (a *app) printManifest(dir string, m *offline.Manifest, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(m)
	}
	_, err = fmt.Fprintf(a.out, "%s: log %s of node %d as of %s, %d files, %s: good\n", dir, m.ClusterID, m.NodeID, m.Created.Format("2006-01-02T15:04:05Z07:00"), len(m.Files), bytesOf(m.Bytes))
	return err
}
