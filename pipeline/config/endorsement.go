package config

// Endorsement is a signed statement of somebody's and whom it must be of
// (package endorsement). Every field is a flag of `endorsement verify`, too. No
// root of trust is built in, and nothing is fetched.
type Endorsement struct {
	// File is a Sigstore bundle, a DSSE envelope or an in-toto statement.
	File string `yaml:"file" json:"file"`
	// Signature and LogEntry lie beside a statement that has none in it.
	Signature string `yaml:"signature,omitempty" json:"signature,omitempty"`
	LogEntry  string `yaml:"log_entry,omitempty" json:"log_entry,omitempty"` // as Rekor's API gives it

	// TrustedRoot is a Sigstore trusted root, Key and LogKey are public keys in PEM
	// of the endorser and of a log, Roots the certificates of an own hierarchy.
	TrustedRoot Files `yaml:"trusted_root,omitempty" json:"trusted_root,omitempty"`
	Key         Files `yaml:"key,omitempty" json:"key,omitempty"`
	LogKey      Files `yaml:"log_key,omitempty" json:"log_key,omitempty"`
	Roots       Files `yaml:"roots,omitempty" json:"roots,omitempty"`

	// Identity, Issuer and Source must be as the signer's certificate names them,
	// Builder and PredicateType as the statement does.
	Identity      string `yaml:"identity,omitempty" json:"identity,omitempty"`
	Issuer        string `yaml:"issuer,omitempty" json:"issuer,omitempty"`
	Source        string `yaml:"source,omitempty" json:"source,omitempty"`
	Builder       string `yaml:"builder,omitempty" json:"builder,omitempty"`
	PredicateType string `yaml:"predicate_type,omitempty" json:"predicate_type,omitempty"`

	// Subjects are digests, Artifacts files and Keys globs of values of this run:
	// each must be a subject of the statement.
	Subjects  []string `yaml:"subjects,omitempty" json:"subjects,omitempty"`
	Artifacts []string `yaml:"artifacts,omitempty" json:"artifacts,omitempty"`
	Keys      []string `yaml:"keys,omitempty" json:"keys,omitempty"`

	// At is the time (RFC 3339) at which it must be in force. There is no default:
	// a result must not depend on the day.
	At string `yaml:"at,omitempty" json:"at,omitempty"`
	// Only names the questions that are asked: signed, logged, valid, covers.
	Only []string `yaml:"only,omitempty" json:"only,omitempty"`
}

// Files are the files that are read as a whole.
func (e *Endorsement) Files() []string {
	out := []string{e.File, e.Signature, e.LogEntry}
	for _, list := range []Files{e.TrustedRoot, e.Key, e.LogKey, e.Roots} {
		out = append(out, list...)
	}
	return out
}
