package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/internal/daemon"
)

func newACLs(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "acls", Short: "Add, list and delete access control entries",
		Long: `As soon as clients of the log must authenticate, everything that is not allowed is denied. A rule is what allow: of the file holds: operations, a type
(topic, group, transactional_id, cluster) and a name; a name that ends with * is a prefix, * alone is every name. A producer needs write on its topics, a
consumer read on its topics and its group, a transactional producer write on its transactional_id.`,
		Example: "  outrelay acls add app 'read,write topic orders' 'read group app-*'\n  outrelay acls list",
	}
	cmd.AddCommand(aclsAdd(a), aclsList(a), aclsDelete(a))
	return cmd
}

// aclFlags are what a rule does not say.
type aclFlags struct {
	host string
	deny bool
}

func (f *aclFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.host, "host", auth.Wildcard, "address from which it holds; * is everywhere")
	c.Flags().BoolVar(&f.deny, "deny", false, "deny, whatever other entries allow")
}

// entries returns the entries that the rules of a user make.
func (f *aclFlags) entries(user string, rules []string) (list []auth.ACL, err error) {
	for _, rule := range rules {
		acls, err := daemon.ACLsOf(user, rule)
		if err != nil {
			return nil, usageError{err}
		}
		for _, e := range acls {
			if e.Host = f.host; f.deny {
				e.Permission = kmsg.ACLPermissionTypeDeny
			}
			if err := e.Check(); err != nil {
				return nil, usageError{err}
			}
			list = append(list, e)
		}
	}
	return list, nil
}

// ask sends one request to the log.
func ask[R kmsg.Response](ctx context.Context, a *app, req kmsg.Request) (r R, err error) {
	err = a.withClient(func(cl *kgo.Client) error {
		resp, err := cl.Request(ctx, req)
		if err == nil {
			r = resp.(R)
		}
		return err
	})
	return r, err
}

// withClient calls fn with a client of the log.
func (a *app) withClient(fn func(*kgo.Client) error) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	return a.reach(fn(cl))
}

func aclsAdd(a *app) *cobra.Command {
	var f aclFlags
	c := &cobra.Command{
		Use: "add USER RULE...", Short: "Allow or deny a user something", Args: cobra.MinimumNArgs(2),
		Example: `  outrelay acls add app 'read,write topic orders' 'read group app-*'
  outrelay acls add '*' 'read topic public-*' --host 10.0.0.7
  outrelay acls add app 'write topic orders' --deny`,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.entries(args[0], args[1:])
			if err != nil {
				return err
			}
			req := kmsg.NewPtrCreateACLsRequest()
			for _, e := range list {
				req.Creations = append(req.Creations, kmsg.CreateACLsRequestCreation{
					ResourceType: e.Type, ResourceName: e.Name, ResourcePatternType: e.Pattern,
					Principal: string(e.Principal), Host: e.Host, Operation: e.Operation, PermissionType: e.Permission,
				})
			}
			resp, err := ask[*kmsg.CreateACLsResponse](cmd.Context(), a, req)
			if err != nil {
				return err
			}
			for i, r := range resp.Results {
				if err := aclError(r.ErrorCode, r.ErrorMessage); err != nil {
					return fmt.Errorf("%s: %w", list[i], err)
				}
			}
			return a.printACLs(list)
		},
	}
	f.register(c)
	return c
}

func aclsList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list [USER]", Short: "List entries, those of the file included", Args: cobra.MaximumNArgs(1),
		Example: "  outrelay acls list\n  outrelay acls list app --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := kmsg.NewPtrDescribeACLsRequest()
			req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
			req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
			if len(args) == 1 {
				req.Principal = new(string(auth.User(args[0])))
			}
			resp, err := ask[*kmsg.DescribeACLsResponse](cmd.Context(), a, req)
			if err != nil {
				return err
			}
			if err := aclError(resp.ErrorCode, resp.ErrorMessage); err != nil {
				return err
			}
			list := []auth.ACL{}
			for _, res := range resp.Resources {
				for _, e := range res.ACLs {
					list = append(list, auth.ACL{Principal: auth.Principal(e.Principal), Host: e.Host, Type: res.ResourceType, Name: res.ResourceName,
						Pattern: res.ResourcePatternType, Operation: e.Operation, Permission: e.PermissionType})
				}
			}
			return a.printACLs(list)
		},
	}
}

func aclsDelete(a *app) *cobra.Command {
	var f aclFlags
	var all bool
	c := &cobra.Command{
		Use: "delete USER [RULE...]", Short: "Delete entries of a user", Args: cobra.MinimumNArgs(1),
		Long:    "Deletes the entries that the rules made, or all of a user's. Those of the file are deleted there.",
		Example: "  outrelay acls delete app 'write topic orders'\n  outrelay acls delete app --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.filters(args[0], args[1:], all)
			if err != nil {
				return err
			}
			resp, err := ask[*kmsg.DeleteACLsResponse](cmd.Context(), a, req)
			if err != nil {
				return err
			}
			gone := []auth.ACL{}
			for _, r := range resp.Results {
				if err := aclError(r.ErrorCode, r.ErrorMessage); err != nil {
					return err
				}
				for _, m := range r.MatchingACLs {
					e := auth.ACL{Principal: auth.Principal(m.Principal), Host: m.Host, Type: m.ResourceType, Name: m.ResourceName,
						Pattern: m.ResourcePatternType, Operation: m.Operation, Permission: m.PermissionType}
					if err := aclError(m.ErrorCode, m.ErrorMessage); err != nil {
						return fmt.Errorf("%s: %w", e, err)
					}
					gone = append(gone, e)
				}
			}
			if len(gone) == 0 {
				return fmt.Errorf("user %s: no entry is like that; see outrelay acls list", args[0])
			}
			return a.printACLs(gone)
		},
	}
	f.register(c)
	c.Flags().BoolVar(&all, "all", false, "all entries of the user")
	return c
}

func (f *aclFlags) filters(user string, rules []string, all bool) (*kmsg.DeleteACLsRequest, error) {
	req := kmsg.NewPtrDeleteACLsRequest()
	if all == (len(rules) > 0) {
		return nil, usageError{fmt.Errorf("say the rules, or --all")}
	}
	if all {
		req.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: kmsg.ACLResourceTypeAny, ResourcePatternType: kmsg.ACLResourcePatternTypeAny,
			Principal: new(string(auth.User(user))), Operation: kmsg.ACLOperationAny, PermissionType: kmsg.ACLPermissionTypeAny}}
		return req, nil
	}
	list, err := f.entries(user, rules)
	for _, e := range list {
		req.Filters = append(req.Filters, kmsg.DeleteACLsRequestFilter{ResourceType: e.Type, ResourceName: new(e.Name), ResourcePatternType: e.Pattern,
			Principal: new(string(e.Principal)), Host: new(e.Host), Operation: e.Operation, PermissionType: e.Permission})
	}
	return req, err
}

// aclError is an answer's error, with the log's own words.
func aclError(code int16, words *string) error {
	err := kerr.ErrorForCode(code)
	if err != nil && words != nil {
		return fmt.Errorf("%w: %s", err, *words)
	}
	return err
}

func (a *app) printACLs(list []auth.ACL) error {
	if a.json {
		return a.printJSON(list)
	}
	w := a.table("USER\tHOST\tPERMISSION\tOPERATION\tTYPE\tNAME")
	for _, e := range list {
		name := e.Name
		if e.Pattern == kmsg.ACLResourcePatternTypePrefixed {
			name += auth.Wildcard
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Principal.Name(), e.Host, strings.ToLower(e.Permission.String()), strings.ToLower(e.Operation.String()),
			strings.ToLower(e.Type.String()), name)
	}
	return w.Flush()
}
