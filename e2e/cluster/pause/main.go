// Pause is the first process of every pod: it holds the pod's namespaces while containers come and go, waits for the
// signal that ends the pod, and reaps what the containers leave behind where they share its PID namespace.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// One signal may stand for several ended processes.
func reap() {
	for {
		if child, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); child <= 0 {
			return
		}
	}
}
