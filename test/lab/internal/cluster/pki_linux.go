package cluster

import (
	"crypto/x509/pkix"
	"net/netip"
	"os"

	"github.com/tulle-mesh/tulle/test/lab/internal/pki"
	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// writePKI makes all certificates, keys and kubeconfigs of a lab. outer is the
// API server's URL on the machine, outside the lab's namespaces.
func writePKI(cluster topology.Cluster, paths plan.Paths, outer string) error {
	authority, err := pki.NewAuthority("tulle-lab")
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	if err := addAuthorities(files, authority); err != nil {
		return err
	}
	if err := addServers(files, cluster, authority); err != nil {
		return err
	}
	admin, err := addUsers(files, cluster, authority)
	if err != nil {
		return err
	}
	if err := pki.WriteFiles(paths.PKI(), files); err != nil {
		return err
	}
	return os.WriteFile(paths.Kubeconfig(), pki.Kubeconfig(outer, authority.Certificate(), admin), 0o600)
}

func addPair(files map[string][]byte, name string, pair pki.Pair) {
	files[name+".crt"], files[name+".key"] = pair.Certificate, pair.Key
}

// addAuthorities adds both authorities, the front proxy's client certificate
// and the key that signs service-account tokens.
func addAuthorities(files map[string][]byte, authority *pki.Authority) error {
	own, err := authority.Pair()
	if err != nil {
		return err
	}
	addPair(files, "ca", own)
	front, err := pki.NewAuthority("tulle-lab-front-proxy")
	if err != nil {
		return err
	}
	files["front-ca.crt"] = front.Certificate()
	client, err := front.Client(pkix.Name{CommonName: "front-proxy-client"})
	if err != nil {
		return err
	}
	addPair(files, "front-proxy-client", client)
	files["tokens.key"], files["tokens.pub"], err = pki.SigningKey()
	return err
}

func addServers(files map[string][]byte, cluster topology.Cluster, authority *pki.Authority) error {
	addresses := append(cluster.APIService(), netip.MustParseAddr("127.0.0.1"))
	addresses = append(addresses, cluster.Nodes[0].IPs()...)
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + cluster.Domain}
	server, err := authority.Server(pkix.Name{CommonName: "kube-apiserver"}, names, addresses)
	if err != nil {
		return err
	}
	addPair(files, "apiserver", server)
	for _, node := range cluster.Nodes {
		subject := pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node.Name}
		serving, err := authority.Server(subject, []string{node.Name}, node.IPs())
		if err != nil {
			return err
		}
		addPair(files, node.Name+"-kubelet-serving", serving)
	}
	return nil
}

// addUsers adds a kubeconfig for each component and returns the
// administrator's certificate.
func addUsers(files map[string][]byte, cluster topology.Cluster, authority *pki.Authority) (pki.Pair, error) {
	users := map[string]pkix.Name{
		"admin":              {Organization: []string{"system:masters"}, CommonName: "tulle-lab-admin"},
		"apiserver-kubelet":  {Organization: []string{"system:masters"}, CommonName: "kube-apiserver-kubelet-client"},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"proxy":              {CommonName: "system:kube-proxy"},
	}
	for _, node := range cluster.Nodes {
		users[node.Name+"-kubelet"] = pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node.Name}
	}
	var admin pki.Pair
	for name, subject := range users {
		pair, err := authority.Client(subject)
		if err != nil {
			return pki.Pair{}, err
		}
		addPair(files, name, pair)
		files[name+".kubeconfig"] = pki.Kubeconfig("https://"+plan.APIServer(), authority.Certificate(), pair)
		if name == "admin" {
			admin = pair
		}
	}
	return admin, nil
}
