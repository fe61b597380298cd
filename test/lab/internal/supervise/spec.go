// Package supervise is the first process of a node: it prepares the
// namespaces that it was started in and keeps the node's programs running.
// It knows nothing of Kubernetes; a Spec tells it everything.
package supervise

import "net/netip"

// Spec describes a node to its first process.
type Spec struct {
	Hostname string `json:"hostname"`
	// Keep are folders that must stay reachable under their own path, whatever
	// is mounted over their parents.
	Keep []string `json:"keep"`
	// Overlays are folders of the machine whose content is seen but to which
	// writes go to memory.
	Overlays []string `json:"overlays"`
	// Folders are made after the mounts.
	Folders []string `json:"folders"`
	// Shields are kernel settings of the whole machine that the node's
	// programs would change; they get private copies to write to.
	Shields []string `json:"shields"`
	// Sysctls are settings of the network namespace.
	Sysctls []Sysctl `json:"sysctls"`
	Network Network  `json:"network"`
	// Forward is where connections to the inherited listener go.
	Forward   string    `json:"forward"`
	Processes []Process `json:"processes"`
	LogDir    string    `json:"logDir"`
	// StatusFile is rewritten whenever something changes.
	StatusFile string `json:"statusFile"`
}

// Sysctl is one kernel setting, by its path below /proc/sys.
type Sysctl struct {
	Path  string `json:"path"`
	Value string `json:"value"`
	// Why says what is missing when the kernel has no such setting.
	Why string `json:"why"`
}

// Network is a bridge that carries the node's addresses. It has no uplink, and
// the default routes lead to it.
type Network struct {
	Bridge    string         `json:"bridge"`
	Addresses []netip.Prefix `json:"addresses"`
}

// Process is a program to keep running, or to run once.
type Process struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// After names processes that must be ready before this one starts.
	After []string `json:"after,omitempty"`
	// Ready tells when the process is; without it, it is once started.
	Ready Probe `json:"ready,omitzero"`
	// Once is for a process that is ready when it has ended well, and whose
	// failure is the node's.
	Once bool `json:"once,omitempty"`
}

// Probe is one question that is repeated until its answer is yes. At most one
// field is set, apart from CA.
type Probe struct {
	// URL must answer 200.
	URL string `json:"url,omitempty"`
	// CA is the file with which an https URL is verified.
	CA string `json:"ca,omitempty"`
	// Socket is a unix socket that must accept connections.
	Socket string `json:"socket,omitempty"`
}

// Phases of a node's first process.
const (
	PhaseMounts  = "mounts"
	PhaseNetwork = "network"
	PhaseRunning = "running"
	PhaseFailed  = "failed"
)

// States of a process.
const (
	StateWaiting  = "waiting"
	StateStarting = "starting"
	StateReady    = "ready"
	StateDone     = "done"
	StateBackoff  = "restarting"
	StateFailed   = "failed"
)

// Status is what the first process reports in its status file.
type Status struct {
	Phase     string          `json:"phase"`
	Error     string          `json:"error,omitempty"`
	Processes []ProcessStatus `json:"processes"`
}

// ProcessStatus is the state of one process.
type ProcessStatus struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	PID      int    `json:"pid,omitempty"` // inside the node's namespace
	Restarts int    `json:"restarts,omitempty"`
	LastExit string `json:"lastExit,omitempty"`
}

// Process returns the status of the named process.
func (s Status) Process(name string) (ProcessStatus, bool) {
	for _, process := range s.Processes {
		if process.Name == name {
			return process, true
		}
	}
	return ProcessStatus{}, false
}
