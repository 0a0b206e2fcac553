// Kube is Kubernetes in one file: every component that the test cluster runs, and kubectl, chosen by the first argument or
// by the name that the file is called by. One binary, because the components share most of their code, and each would carry
// it, and be linked, on its own. What a component does is decided by Kubernetes alone; nothing is added or changed here.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// Registered by being imported, as in the main packages of Kubernetes: the JSON log format, and metrics of the API
	// client and of the build.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

var components = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllers.NewControllerManagerCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":            func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"proxy":              proxy.NewProxyCommand,
	"kubectl":            kubectl.NewDefaultKubectlCommand,
}

func main() {
	// The components read os.Args themselves, so the name of this file must be gone from it.
	if filepath.Base(os.Args[0]) == "kube" {
		os.Args = os.Args[1:]
	}
	if len(os.Args) == 0 {
		fail("no component named")
	}
	os.Args[0] = filepath.Base(os.Args[0])
	if os.Args[0] == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	component, known := components[os.Args[0]]
	if !known {
		fail(fmt.Sprintf("no component %q", os.Args[0]))
	}
	os.Exit(cli.Run(component()))
}

func fail(problem string) {
	names := append(slices.Sorted(maps.Keys(components)), "etcd")
	fmt.Fprintf(os.Stderr, "kube: %s; usage: kube %s [<argument>...]\n", problem, strings.Join(names, "|"))
	os.Exit(2)
}
