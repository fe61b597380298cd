package model

import (
	"maps"
	"reflect"
	"slices"
)

// template is what the pods of one controller mostly say alike. They share it, since there are many more pods than controllers: a map of three labels alone
// takes half a kilobyte.
type template struct {
	labels                         map[string]string
	account                        string
	controllerKind, controllerName string
	hostNetwork                    bool // its addresses are the node's
	windows                        bool // nobody can redirect its traffic
	ports                          []containerPort
	injected                       injected

	// pods is how many share it. What was last made of one of them is mostly what is made of the others.
	pods  int
	owner string
	made  []WorkloadPort
}

// shareMade has a workload use what was made alike of the pods before.
func (t *template) shareMade(w *Workload) {
	if t.owner == w.Owner {
		w.Owner = t.owner
	}
	if slices.Equal(t.made, w.Ports) {
		w.Ports = t.made
	}
	t.owner, t.made = w.Owner, w.Ports
}

func (t *template) equal(o *template) bool {
	return t.account == o.account && t.controllerKind == o.controllerKind && t.controllerName == o.controllerName &&
		t.hostNetwork == o.hostNetwork && t.windows == o.windows &&
		maps.Equal(t.labels, o.labels) && slices.Equal(t.ports, o.ports) && reflect.DeepEqual(t.injected, o.injected)
}

// equal says whether two versions of a pod are the same to the mesh.
func (p *pod) equal(o *pod) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.key == o.key && p.uid == o.uid && p.created.Equal(o.created) && p.node == o.node && p.terminating == o.terminating &&
		slices.Equal(p.addresses, o.addresses) && p.template.equal(o.template)
}

// controller names who made pods.
type controller struct{ namespace, kind, name string }

func (p *pod) controller() controller {
	return controller{p.key.Namespace, p.controllerKind, p.controllerName}
}

// maxTemplates bounds the templates that are kept of a controller: pods of a StatefulSet have a label each that no other has.
const maxTemplates = 4

// templates are those that pods share.
type templates map[controller][]*template

// share has a pod use the template of one that says the same.
func (t templates) share(p *pod) {
	if p.controllerName == "" {
		return
	}
	key := p.controller()
	same := slices.IndexFunc(t[key], p.template.equal)
	switch {
	case same >= 0:
		p.template = t[key][same]
	case len(t[key]) < maxTemplates:
		t[key] = append(t[key], p.template)
	default:
		return
	}
	p.template.pods++
}

// release takes a pod that is no more from those that share its template.
func (t templates) release(p *pod) {
	key := p.controller()
	if i := slices.Index(t[key], p.template); i >= 0 {
		if p.template.pods--; p.template.pods == 0 {
			t[key] = slices.Delete(t[key], i, i+1)
		}
		if len(t[key]) == 0 {
			delete(t, key)
		}
	}
}
