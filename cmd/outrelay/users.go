package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/term"

	"github.com/outrelay/outrelay/broker/auth"
)

func newUsers(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "users", Short: "Add, list and delete users of the log",
		Long: `Users authenticate by SCRAM or, over TLS, by PLAIN. The first ones stand in the file, under broker.users, since somebody must be let in to add
others; the file's users are changed there. What a user may do: see outrelay acls.`,
		Example: "  outrelay users add app < app.password\n  outrelay users list",
	}
	cmd.AddCommand(usersAdd(a), usersList(a), usersDelete(a))
	return cmd
}

func usersAdd(a *app) *cobra.Command {
	var iterations int32
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a user, or give one a new password", Args: cobra.ExactArgs(1),
		Long: `Reads the password from standard input: its first line, which a terminal does not show. The password itself is not sent: the log gets a salt and what
is derived from both, for SCRAM-SHA-256 and SCRAM-SHA-512. Connections that are open stay open, for as long as broker.session_lifetime says.`,
		Example: "  outrelay users add app < app.password\n  openssl rand -base64 24 | tee app.password | outrelay users add app",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !auth.ValidUser(args[0]) {
				return usageError{fmt.Errorf("%q is no name for a user: 1 to 255 printable bytes; outrelay, ANONYMOUS and * are taken", args[0])}
			}
			password, err := readPassword(os.Stdin, os.Stderr)
			if err != nil {
				return err
			}
			var changes []kadm.UpsertSCRAM
			for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
				changes = append(changes, kadm.UpsertSCRAM{User: args[0], Mechanism: m, Iterations: iterations, Password: password})
			}
			return a.alterUser(cmd.Context(), args[0], "can authenticate now", func(ctx context.Context, adm *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
				return adm.AlterUserSCRAMs(ctx, nil, changes)
			})
		},
	}
	c.Flags().Int32Var(&iterations, "iterations", auth.IterationsMin, "iterations of the salted hash, 4096 to 16384")
	return c
}

// readPassword reads the first line; a terminal is asked for it and does not show it.
func readPassword(in *os.File, prompt io.Writer) (string, error) {
	if isTerminal(in) {
		fmt.Fprint(prompt, "password: ")
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(prompt)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		return string(b), nil
	}
	line, err := bufio.NewReaderSize(io.LimitReader(in, 4096), 4096).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("standard input: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if password == "" || len(password) > auth.PasswordBytesMax {
		return "", usageError{fmt.Errorf("standard input holds no password of 1 to %d bytes", auth.PasswordBytesMax)}
	}
	return password, nil
}

// alterUser makes one change of a user and says what came of it.
func (a *app) alterUser(ctx context.Context, name, done string, change func(context.Context, *kadm.Client) (kadm.AlteredUserSCRAMs, error)) error {
	return a.admin(ctx, func(ctx context.Context, adm *kadm.Client) error {
		rs, err := change(ctx, adm)
		if err != nil {
			return err
		}
		for _, r := range rs {
			if r.Err != nil {
				return fmt.Errorf("user %s: %w: %s", r.User, r.Err, r.ErrMessage)
			}
		}
		if a.json {
			return a.printJSON(map[string]any{"user": name, "done": true})
		}
		fmt.Fprintf(a.out, "user %s: %s\n", name, done)
		return nil
	})
}

// userRow is a user, as list shows it.
type userRow struct {
	User       string   `json:"user"`
	Mechanisms []string `json:"mechanisms"`
}

func usersList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List users, those of the file included", Args: cobra.NoArgs,
		Example: "  outrelay users list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.admin(cmd.Context(), func(ctx context.Context, adm *kadm.Client) error {
				rs, err := adm.DescribeUserSCRAMs(ctx)
				if err != nil {
					return err
				}
				rows := []userRow{}
				for _, u := range rs.Sorted() {
					if u.Err != nil {
						return fmt.Errorf("user %s: %w: %s", u.User, u.Err, u.ErrMessage)
					}
					row := userRow{User: u.User, Mechanisms: []string{}}
					for _, ci := range u.CredInfos {
						row.Mechanisms = append(row.Mechanisms, ci.Mechanism.String())
					}
					rows = append(rows, row)
				}
				if a.json {
					return a.printJSON(rows)
				}
				w := a.table("USER\tMECHANISMS")
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\n", r.User, strings.Join(r.Mechanisms, " "))
				}
				return w.Flush()
			})
		},
	}
}

func usersDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a user's credentials", Args: cobra.ExactArgs(1),
		Long: `The user cannot authenticate any more. Connections that are open stay open, for as long as broker.session_lifetime says; its ACLs stay: see
outrelay acls delete.`,
		Example: "  outrelay users delete app",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.alterUser(cmd.Context(), args[0], "deleted", func(ctx context.Context, adm *kadm.Client) (kadm.AlteredUserSCRAMs, error) {
				rs, err := adm.DescribeUserSCRAMs(ctx, args[0])
				if err != nil {
					return nil, err
				}
				u := rs[args[0]]
				if u.Err != nil {
					return nil, fmt.Errorf("user %s: %w: %s", args[0], u.Err, u.ErrMessage)
				}
				var gone []kadm.DeleteSCRAM
				for _, ci := range u.CredInfos {
					gone = append(gone, kadm.DeleteSCRAM{User: args[0], Mechanism: ci.Mechanism})
				}
				return adm.AlterUserSCRAMs(ctx, gone, nil)
			})
		},
	}
}
