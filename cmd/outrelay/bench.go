package main

import "github.com/spf13/cobra"

func newBench(_ *app) *cobra.Command { return &cobra.Command{Use: "bench", Short: "How fast, beside a peer or a physical limit"} }
