package config

// Fleet is a provider's whole list. Every field is a flag of `fleet`, too.
type Fleet struct {
	// File is the list: SecretVM's tdx.csv or sev.json, Tinfoil's machines, shapes or
	// signed measurements, a Contrast manifest.
	File string `yaml:"file" json:"file"`
	// Inputs are files and folders with what the rows are made of: firmware,
	// kernels, disks, tables. Each is found by its digest, whatever it is called.
	Inputs []string `yaml:"inputs,omitempty" json:"inputs,omitempty"`
	// Compose is a compose file, or its digest as sha256:HEX: with it the launch
	// digests of SecretVM's AMD machines follow.
	Compose string `yaml:"compose,omitempty" json:"compose,omitempty"`
}
