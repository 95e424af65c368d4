package tdxquote

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/jsondoc"
)

// The TCB statuses that this package treats by name ("Intel TDX DCAP Quote
// Verification Library", TCB status table). Others are passed on as they are.
const (
	UpToDate               = "UpToDate"
	SWHardeningNeeded      = "SWHardeningNeeded"
	ConfigurationNeeded    = "ConfigurationNeeded"
	ConfigurationAndSW     = "ConfigurationAndSWHardeningNeeded"
	OutOfDate              = "OutOfDate"
	OutOfDateConfiguration = "OutOfDateConfigurationNeeded"
	Revoked                = "Revoked"
)

// TCB is how current a platform is, by Intel's word in the collateral.
type TCB struct {
	Status     string   `json:"status"`
	Date       string   `json:"date"`
	Advisories []string `json:"advisories,omitempty"`
	Platform   string   `json:"platform"` // status of the platform's level alone
	Module     string   `json:"module,omitempty"`
	QE         string   `json:"qe"`
	Evaluation uint64   `json:"tcb_evaluation_data_number"` // the lower one of TCB info and QE identity
	// Short names the security versions that the newest levels ask for and that
	// the platform does not have; Newest is the platform's level that it would reach
	// with them, by date and status.
	Short  []string `json:"short,omitempty"`
	Newest string   `json:"newest,omitempty"`
}

type tcbLevel struct {
	status, date string
	advisories   []string
	sgx, tdx     [16]component
	pcesvn       uint64
	isvsvn       uint64
}

// component is one security version that a level asks for.
type component struct {
	svn  uint64
	kind string // what it is of, in Intel's words; "" where the document does not say
}

type moduleIdentity struct {
	id                     string
	mrsigner               []byte
	attributes, attributeM []byte
	levels                 []tcbLevel
}

type tcbInfo struct {
	issued, next time.Time
	fmspc, pceid []byte
	evaluation   uint64
	module       moduleIdentity
	modules      []moduleIdentity
	levels       []tcbLevel
}

type qeIdentity struct {
	issued, next           time.Time
	misc, miscM            []byte
	attributes, attributeM []byte
	mrsigner               []byte
	product                uint64
	evaluation             uint64
	levels                 []tcbLevel
}

// node is a value of a document with the way to it, for errors; the first error
// stays.
type node struct {
	*jsondoc.Value
	at  string
	err *error
	in  string
}

func (n node) fail(found, want string) {
	if *n.err == nil {
		*n.err = &malformed.Error{Input: n.in, Place: n.at, Found: found, Want: want}
	}
}

func (n node) get(key string) node {
	return node{n.Get(key), n.at + "/" + jsondoc.EscapePointer(key), n.err, n.in}
}

func (n node) kind() string {
	if n.Value == nil {
		return "nothing"
	}
	return "a value of type " + n.Kind.String()
}

func (n node) text() string {
	if n.Value == nil || n.Kind != jsondoc.String {
		n.fail(n.kind(), "a string")
		return ""
	}
	return n.Text
}

// optional is a member's text, "" where there is none.
func (n node) optional(key string) string {
	if n.Get(key) == nil {
		return ""
	}
	return n.get(key).text()
}

func (n node) number(limit uint64) uint64 {
	if n.Value == nil || n.Kind != jsondoc.Number {
		n.fail(n.kind(), "a number")
		return 0
	}
	u, ok := n.Uint64()
	if !ok || u > limit {
		n.fail(n.Text, fmt.Sprintf("a whole number up to %d", limit))
	}
	return u
}

func (n node) bytes(size int) []byte {
	text := n.text()
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != size {
		n.fail(fmt.Sprintf("%q", text), fmt.Sprintf("%d hexadecimal bytes", size))
		return make([]byte, size)
	}
	return b
}

func (n node) time() time.Time {
	t, err := time.Parse(time.RFC3339, n.text())
	if err != nil {
		n.fail(fmt.Sprintf("%q", n.text()), "a time in RFC 3339")
	}
	return t
}

func (n node) each() []node {
	if n.Value == nil || n.Kind != jsondoc.Array {
		n.fail(n.kind(), "an array")
		return nil
	}
	out := make([]node, 0, len(n.Elems))
	for i, e := range n.Elems {
		out = append(out, node{e, fmt.Sprintf("%s/%d", n.at, i), n.err, n.in})
	}
	return out
}

func openDocument(input, member, text string) (node, error) {
	doc, err := jsondoc.Parse([]byte(text), jsondoc.Limits{Bytes: MaxCollateral, Depth: 16, Values: 100000})
	if err != nil {
		return node{}, fmt.Errorf("read %s: /%s: %w", input, member, err)
	}
	return node{doc, "", new(error), input + " /" + member}, nil
}

func (n node) want(key, want string) {
	if got := n.get(key).text(); got != want {
		n.get(key).fail(fmt.Sprintf("%q", got), fmt.Sprintf("%q", want))
	}
}

// parseTCBInfo reads TCB info version 3 of TDX.
func parseTCBInfo(input, text string) (*tcbInfo, error) {
	n, err := openDocument(input, "tcb_info", text)
	if err != nil {
		return nil, err
	}
	n.want("id", "TDX")
	if v := n.get("version").number(1 << 16); v != 3 {
		n.get("version").fail(fmt.Sprint(v), "3")
	}
	if v := n.get("tcbType").number(1 << 16); v != 0 {
		n.get("tcbType").fail(fmt.Sprint(v), "0")
	}
	t := &tcbInfo{
		issued: n.get("issueDate").time(), next: n.get("nextUpdate").time(),
		fmspc: n.get("fmspc").bytes(6), pceid: n.get("pceId").bytes(2),
		evaluation: n.get("tcbEvaluationDataNumber").number(1 << 32),
		module:     readModule(n.get("tdxModule"), false),
	}
	if n.Get("tdxModuleIdentities") != nil {
		for _, m := range n.get("tdxModuleIdentities").each() {
			t.modules = append(t.modules, readModule(m, true))
		}
	}
	for _, level := range n.get("tcbLevels").each() {
		t.levels = append(t.levels, readLevel(level, true))
	}
	return t, *n.err
}

func readModule(n node, identity bool) moduleIdentity {
	m := moduleIdentity{mrsigner: n.get("mrsigner").bytes(48), attributes: n.get("attributes").bytes(8), attributeM: n.get("attributesMask").bytes(8)}
	if identity {
		m.id = n.get("id").text()
		for _, level := range n.get("tcbLevels").each() {
			m.levels = append(m.levels, readLevel(level, false))
		}
	}
	return m
}

func readLevel(n node, platform bool) tcbLevel {
	l := tcbLevel{status: n.get("tcbStatus").text(), date: n.get("tcbDate").text()}
	if n.Get("advisoryIDs") != nil {
		for _, a := range n.get("advisoryIDs").each() {
			l.advisories = append(l.advisories, a.text())
		}
	}
	tcb := n.get("tcb")
	if !platform {
		l.isvsvn = tcb.get("isvsvn").number(1 << 16)
		return l
	}
	l.pcesvn = tcb.get("pcesvn").number(1 << 16)
	readComponents(tcb.get("sgxtcbcomponents"), &l.sgx)
	readComponents(tcb.get("tdxtcbcomponents"), &l.tdx)
	return l
}

func readComponents(n node, dst *[16]component) {
	components := n.each()
	if len(components) != len(dst) {
		n.fail(fmt.Sprintf("%d components", len(components)), "16")
		return
	}
	for i, c := range components {
		dst[i] = component{svn: c.get("svn").number(255), kind: c.optional("type")}
	}
}

// parseQEIdentity reads the TD quoting enclave's identity, version 2.
func parseQEIdentity(input, text string) (*qeIdentity, error) {
	n, err := openDocument(input, "qe_identity", text)
	if err != nil {
		return nil, err
	}
	n.want("id", "TD_QE")
	if v := n.get("version").number(1 << 16); v != 2 {
		n.get("version").fail(fmt.Sprint(v), "2")
	}
	q := &qeIdentity{
		issued: n.get("issueDate").time(), next: n.get("nextUpdate").time(),
		misc: n.get("miscselect").bytes(4), miscM: n.get("miscselectMask").bytes(4),
		attributes: n.get("attributes").bytes(16), attributeM: n.get("attributesMask").bytes(16),
		mrsigner: n.get("mrsigner").bytes(32), product: n.get("isvprodid").number(1 << 16),
		evaluation: n.get("tcbEvaluationDataNumber").number(1 << 32),
	}
	for _, level := range n.get("tcbLevels").each() {
		q.levels = append(q.levels, readLevel(level, false))
	}
	return q, *n.err
}

// judge finds the TCB level of platform, TDX module and quoting enclave, and
// takes the worst ("Intel SGX and TDX Provisioning Certification Service API",
// TCB level selection). TEE_TCB_SVN counts, that of the module which started
// the TD; TEE_TCB_SVN_2 of later bodies, that of the module which runs it now,
// can only be newer and is shown as a claim.
func (c *Collateral) judge(q *Quote, pck *PCK) (*TCB, error) {
	t := c.tcbInfo
	if !slices.Equal(t.fmspc, pck.FMSPC[:]) {
		return nil, fmt.Errorf("the TCB info is for FMSPC %x, the platform has %x", t.fmspc, pck.FMSPC)
	}
	if !slices.Equal(t.pceid, pck.PCEID[:]) {
		return nil, fmt.Errorf("the TCB info is for PCEID %x, the platform has %x", t.pceid, pck.PCEID)
	}
	svn := q.Body.TEETCBSVN
	first := 0
	if svn[1] > 0 {
		first = 2 // the module's own version is judged by its identity
	}
	i := slices.IndexFunc(t.levels, func(l tcbLevel) bool { return l.reached(pck, svn, first) })
	if i < 0 {
		lowest := ""
		if n := len(t.levels); n > 0 {
			lowest = "; of the lowest level, that of " + t.levels[n-1].date + ", it lacks: " + strings.Join(t.levels[n-1].short(pck, svn, first), ", ")
		}
		return nil, fmt.Errorf("no TCB level matches: the platform has the SVNs %v, PCESVN %d, TDX %v%s", pck.SVN, pck.PCESVN, svn, lowest)
	}
	level := t.levels[i]
	out := &TCB{Platform: level.status, Date: level.date, Advisories: level.advisories, Status: level.status, Evaluation: min(t.evaluation, c.qeIdentity.evaluation), Short: t.levels[0].short(pck, svn, first)}
	if len(out.Short) > 0 {
		out.Newest = t.levels[0].date + " (" + t.levels[0].status + ")"
	}
	module, err := t.judgeModule(q)
	if err != nil {
		return nil, err
	}
	if module != nil {
		out.Module = module.status
		out.Short = append(out.Short, t.moduleShort(q)...)
		out.merge(module)
	}
	qe, err := c.qeIdentity.judge(&q.QEReport)
	if err != nil {
		return nil, err
	}
	out.QE = qe.status
	out.Short = append(out.Short, shortOf("the quoting enclave", uint64(q.QEReport.SVN), c.qeIdentity.levels)...)
	out.merge(qe)
	return out, nil
}

func (l tcbLevel) reached(pck *PCK, svn [16]byte, first int) bool {
	for i, want := range l.sgx {
		if int64(pck.SVN[i]) < int64(want.svn) {
			return false
		}
	}
	if int64(pck.PCESVN) < int64(l.pcesvn) {
		return false
	}
	for i := first; i < len(svn); i++ {
		if uint64(svn[i]) < l.tdx[i].svn {
			return false
		}
	}
	return true
}

// short names what a platform lacks for a level.
func (l tcbLevel) short(pck *PCK, svn [16]byte, first int) []string {
	var out []string
	lack := func(group string, i int, c component, have int64) {
		if have >= int64(c.svn) {
			return
		}
		what := fmt.Sprintf("%s component %d", group, i+1)
		if c.kind != "" {
			what += " (" + c.kind + ")"
		}
		out = append(out, fmt.Sprintf("%s has %d, asked for is %d", what, have, c.svn))
	}
	for i, want := range l.sgx {
		lack("SGX", i, want, int64(pck.SVN[i]))
	}
	if int64(pck.PCESVN) < int64(l.pcesvn) {
		out = append(out, fmt.Sprintf("PCE has %d, asked for is %d", pck.PCESVN, l.pcesvn))
	}
	for i := first; i < len(svn); i++ {
		lack("TDX", i, l.tdx[i], int64(svn[i]))
	}
	return out
}

// shortOf names what an enclave or module lacks for the newest of its levels.
func shortOf(what string, have uint64, levels []tcbLevel) []string {
	if len(levels) == 0 || have >= levels[0].isvsvn {
		return nil
	}
	return []string{fmt.Sprintf("%s has %d, asked for is %d", what, have, levels[0].isvsvn)}
}

// judgeModule compares the TDX module with its identity. Module version 0 has
// none of its own; its SVN is part of the platform's level.
func (t *tcbInfo) judgeModule(q *Quote) (*tcbLevel, error) {
	m := t.module
	version := q.Body.TEETCBSVN[1]
	if version > 0 {
		id := fmt.Sprintf("TDX_%02d", version)
		i := slices.IndexFunc(t.modules, func(m moduleIdentity) bool { return strings.EqualFold(m.id, id) })
		if i < 0 {
			return nil, fmt.Errorf("the TCB info does not know the TDX module %s", id)
		}
		m = t.modules[i]
	}
	if !slices.Equal(m.mrsigner, q.Body.MRSIGNERSEAM.Bytes()) {
		return nil, fmt.Errorf("MRSIGNERSEAM is %s, the TCB info wants %x", q.Body.MRSIGNERSEAM.Hex(), m.mrsigner)
	}
	if !masked(q.Body.SEAMAttributes[:], m.attributes, m.attributeM) {
		return nil, fmt.Errorf("the SEAM attributes are %x, the TCB info wants %x under the mask %x", q.Body.SEAMAttributes, m.attributes, m.attributeM)
	}
	if version == 0 {
		return nil, nil
	}
	svn := uint64(q.Body.TEETCBSVN[0])
	i := slices.IndexFunc(m.levels, func(l tcbLevel) bool { return svn >= l.isvsvn })
	if i < 0 {
		return nil, fmt.Errorf("the TDX module's security version %d reaches no TCB level of %s", svn, m.id)
	}
	return &m.levels[i], nil
}

func (t *tcbInfo) moduleShort(q *Quote) []string {
	for _, m := range t.modules {
		if strings.EqualFold(m.id, fmt.Sprintf("TDX_%02d", q.Body.TEETCBSVN[1])) {
			return shortOf("the TDX module", uint64(q.Body.TEETCBSVN[0]), m.levels)
		}
	}
	return nil
}

// is reports how an enclave differs from the one that is described.
func (e *qeIdentity) is(r *EnclaveReport) error {
	misc := []byte{byte(r.MiscSelect), byte(r.MiscSelect >> 8), byte(r.MiscSelect >> 16), byte(r.MiscSelect >> 24)}
	// The document writes it as a number; it is zero in every identity so far.
	slices.Reverse(misc)
	switch {
	case !slices.Equal(e.mrsigner, r.MRSIGNER.Bytes()):
		return fmt.Errorf("the quoting enclave's MRSIGNER is %s, the QE identity wants %x", r.MRSIGNER.Hex(), e.mrsigner)
	case e.product != uint64(r.ProductID):
		return fmt.Errorf("the quoting enclave's product is %d, the QE identity wants %d", r.ProductID, e.product)
	case !masked(misc, e.misc, e.miscM):
		return fmt.Errorf("the quoting enclave's MISCSELECT is %x, the QE identity wants %x", misc, e.misc)
	case !masked(r.Attributes[:], e.attributes, e.attributeM):
		return fmt.Errorf("the quoting enclave's attributes are %x, the QE identity wants %x under the mask %x", r.Attributes, e.attributes, e.attributeM)
	}
	return nil
}

func (e *qeIdentity) judge(r *EnclaveReport) (*tcbLevel, error) {
	if err := e.is(r); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(e.levels, func(l tcbLevel) bool { return uint64(r.SVN) >= l.isvsvn })
	if i < 0 {
		return nil, fmt.Errorf("the quoting enclave's security version %d reaches no TCB level", r.SVN)
	}
	return &e.levels[i], nil
}

func masked(got, want, mask []byte) bool {
	for i := range mask {
		if got[i]&mask[i] != want[i]&mask[i] {
			return false
		}
	}
	return true
}

// merge takes the worse of two statuses: an enclave or a module has no
// configuration, so it only ever makes a platform out of date or revoked. Two
// statuses that are not known to combine are both named, which no list of
// accepted statuses holds by accident.
func (t *TCB) merge(l *tcbLevel) {
	for _, a := range l.advisories {
		if !slices.Contains(t.Advisories, a) {
			t.Advisories = append(slices.Clone(t.Advisories), a)
		}
	}
	switch {
	case l.status == UpToDate || t.Status == l.status || t.Status == Revoked:
		return
	case l.status == OutOfDate && (t.Status == ConfigurationNeeded || t.Status == ConfigurationAndSW || t.Status == OutOfDateConfiguration):
		t.Status = OutOfDateConfiguration
	case l.status == Revoked || t.Status == UpToDate || l.status == OutOfDate && t.Status == SWHardeningNeeded:
		t.Status = l.status
	default:
		t.Status += " and " + l.status
	}
	t.Date = l.date
}
