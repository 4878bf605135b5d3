// A stand-in for Argo's executor, whose real one takes longer to build than all else here. It does what
// Argo's controller expects of the containers of a pod, for templates without outputs:
//
//	argoexec init                   copies itself to where the other containers find it
//	argoexec emissary … -- COMMAND  runs the step in a process group and passes signals on to it
//	argoexec wait                   waits for the step, and reports that there are no outputs to wait for
//	argoexec kill SIGNAL PID        is what the controller calls in a container that it ends
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	shared   = "/var/run/argo"
	exitCode = shared + "/ctr/main/exitcode"
	account  = "/var/run/secrets/kubernetes.io/serviceaccount/"
	results  = "/apis/argoproj.io/v1alpha1/namespaces/%s/workflowtaskresults"
	label    = "workflows.argoproj.io/report-outputs-completed"
)

func main() {
	switch os.Args[1] {
	case "init":
		program := must(os.ReadFile("/proc/self/exe"))
		check(os.WriteFile(shared+"/argoexec", program, 0o755))
	case "emissary":
		syscall.Umask(0)
		check(os.MkdirAll(filepath.Dir(exitCode), 0o777))
		code := run(os.Args[slices.Index(os.Args, "--")+1:])
		check(os.WriteFile(exitCode, []byte(strconv.Itoa(code)), 0o666))
		os.Exit(code)
	case "wait":
		report("POST", "", "application/json", fmt.Sprintf(
			`{"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTaskResult", "metadata": {"name": %q,
			  "labels": {"workflows.argoproj.io/workflow": %q, %q: "false"}}}`,
			os.Getenv("ARGO_NODE_ID"), os.Getenv("ARGO_WORKFLOW_NAME"), label))
		waitForStep()
		report("PATCH", "/"+os.Getenv("ARGO_NODE_ID"), "application/merge-patch+json",
			fmt.Sprintf(`{"metadata": {"labels": {%q: "true"}}}`, label))
	case "kill":
		number, pid := must(strconv.Atoi(os.Args[2])), must(strconv.Atoi(os.Args[3]))
		check(syscall.Kill(pid, syscall.Signal(number)))
	}
}

// run returns the exit code of the command; what the command leaves behind ends with this container.
func run(command []string) int {
	step := exec.Command(command[0], command[1:]...)
	step.Stdout, step.Stderr = os.Stdout, os.Stderr
	step.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(step.Start())
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for number := range signals {
			_ = syscall.Kill(-step.Process.Pid, number.(syscall.Signal))
		}
	}()
	state := must(step.Process.Wait())
	time.Sleep(500 * time.Millisecond) // Argo's looks once a second
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// waitForStep returns once the step has ended, or soon after a signal: a step that was killed left no code.
func waitForStep() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM)
	for !exists(exitCode) {
		select {
		case <-signals:
			time.Sleep(3 * time.Second)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func report(method, path, contentType, body string) {
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(must(os.ReadFile(account + "ca.crt")))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}}}
	namespace := string(must(os.ReadFile(account + "namespace")))
	address := fmt.Sprintf("https://%s:%s", os.Getenv("KUBERNETES_SERVICE_HOST"),
		os.Getenv("KUBERNETES_SERVICE_PORT")) + fmt.Sprintf(results, namespace) + path
	request := must(http.NewRequest(method, address, bytes.NewBufferString(body)))
	request.Header.Set("Authorization", "Bearer "+string(must(os.ReadFile(account+"token"))))
	request.Header.Set("Content-Type", contentType)
	answer := must(client.Do(request))
	defer answer.Body.Close()
	if answer.StatusCode >= 300 && answer.StatusCode != http.StatusConflict {
		check(fmt.Errorf("%s: %s %s", address, answer.Status, must(io.ReadAll(answer.Body))))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "argoexec:", err)
		os.Exit(1)
	}
}
