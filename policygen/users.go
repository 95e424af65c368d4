package policygen

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

type passwdRecord struct {
	name     string
	uid, gid uint32
}

type groupRecord struct {
	name    string
	gid     uint32
	members []string
}

// records splits a user database in lines of fields. ok is false if a line has
// another number of fields: the file then counts as unreadable as a whole, but
// records of the lines before it are still checked by the caller.
func records(text string, fields int) (lines [][]string, ok bool) {
	for line := range strings.Lines(text) {
		if ended, ok := strings.CutSuffix(line, "\n"); ok {
			line = strings.TrimSuffix(ended, "\r") // a CR at the end of the file is text
		}
		parts := strings.Split(line, ":")
		if len(parts) != fields {
			return lines, false
		}
		lines = append(lines, parts)
	}
	return lines, true
}

// parseID reads an unsigned 32-bit number as Rust does: a plus sign is fine.
func parseID(s string) (uint32, bool) {
	digits := strings.TrimPrefix(s, "+")
	if !allDigits(digits) {
		return 0, false
	}
	u, err := strconv.ParseUint(digits, 10, 32)
	return uint32(u), err == nil
}

// parsePasswd reads /etc/passwd (passwd(5)). A number that is none is an
// error; any other fault makes the whole file count as unreadable (ok false).
func parsePasswd(text string) (list []passwdRecord, ok bool, err error) {
	lines, ok := records(text, 7)
	for i, f := range lines {
		uid, okUID := parseID(f[2])
		gid, okGID := parseID(f[3])
		if !okUID || !okGID {
			return nil, false, fmt.Errorf("/etc/passwd of the image, line %d: user id %q and group id %q must be numbers", i+1, clip(f[2]), clip(f[3]))
		}
		list = append(list, passwdRecord{f[0], uid, gid})
	}
	if !ok {
		return nil, false, nil
	}
	return list, true, nil
}

// parseGroup reads /etc/group (group(5)) with the rules of parsePasswd.
func parseGroup(text string) (list []groupRecord, ok bool, err error) {
	lines, ok := records(text, 4)
	for i, f := range lines {
		gid, okGID := parseID(f[2])
		if !okGID {
			return nil, false, fmt.Errorf("/etc/group of the image, line %d: group id %q must be a number", i+1, clip(f[2]))
		}
		var members []string
		if f[3] != "" {
			members = strings.Split(f[3], ",")
		}
		list = append(list, groupRecord{f[0], gid, members})
	}
	if !ok {
		return nil, false, nil
	}
	return list, true, nil
}

// userTables are an image's user databases, read when first asked for: a
// fault in a file that is never consulted is no fault.
type userTables struct {
	img    *image
	passwd []passwdRecord
	group  []groupRecord
	err    error
}

func (t *userTables) users() []passwdRecord {
	if t.passwd == nil {
		list, _, err := parsePasswd(t.img.passwd)
		if err != nil && t.err == nil {
			t.err = err
		}
		t.passwd = append([]passwdRecord{}, list...)
	}
	return t.passwd
}

func (t *userTables) groups() []groupRecord {
	if t.group == nil {
		list, _, err := parseGroup(t.img.group)
		if err != nil && t.err == nil {
			t.err = err
		}
		t.group = append([]groupRecord{}, list...)
	}
	return t.group
}

func (t *userTables) uid(user string) uint32 {
	if id, ok := parseID(user); ok || user == "" {
		return id
	}
	for _, r := range t.users() {
		if r.name == user {
			return r.uid
		}
	}
	return 0
}

func (t *userTables) gid(group string) (uint32, bool) {
	if id, ok := parseID(group); ok || group == "" {
		return id, ok
	}
	for _, r := range t.groups() {
		if r.name == group {
			return r.gid, true
		}
	}
	return 0, false
}

func (t *userTables) gidOf(uid uint32) (uint32, bool) {
	for _, r := range t.users() {
		if r.uid == uid {
			return r.gid, true
		}
	}
	return 0, false
}

// gidSet is a sorted set.
type gidSet []uint32

func (s *gidSet) add(g uint32) {
	if i, found := slices.BinarySearch(*s, g); !found {
		*s = slices.Insert(*s, i, g)
	}
}

// user computes who the container runs as. The order of the steps matters:
// later ones overwrite or add.
func (b *builder) user() User {
	t := &userTables{img: b.img}
	var u User
	gids := gidSet{}
	b.imageUser(t, &u, &gids)
	if !b.pause {
		gids.add(u.GID)
	}
	b.podUser(t, &u, &gids)
	b.containerUser(t, &u, &gids)
	if b.img.passwd != "" && b.img.group != "" {
		b.memberships(t, u, &gids)
	}
	if t.err != nil {
		b.fail("image", Image, "%v", t.err)
	}
	u.AdditionalGids = gids
	return u
}

// imageUser applies the image config's User: user, user:group, or numbers. The
// group part counts for the pause container only.
func (b *builder) imageUser(t *userTables, u *User, gids *gidSet) {
	if b.img.User == "" {
		return
	}
	parts := strings.Split(b.img.User, ":")
	var gid uint32
	var found bool
	switch len(parts) {
	case 1:
		u.UID = t.uid(parts[0])
	case 2:
		u.UID = t.uid(parts[0])
		if b.pause {
			gid, found = t.gid(parts[1])
		}
	}
	if !found {
		gid, found = t.gidOf(u.UID)
	}
	if found {
		u.GID = gid
		gids.add(gid)
	}
}

func (b *builder) id(n *int64, field string) (uint32, bool) {
	if n == nil {
		return 0, false
	}
	if *n < 0 || *n > math.MaxUint32 {
		b.fail(field, Type, "%d is no user or group id: want 0 to %d", *n, uint32(math.MaxUint32))
		return 0, false
	}
	return uint32(*n), true
}

func (b *builder) podUser(t *userTables, u *User, gids *gidSet) {
	sc := b.w.pod.SecurityContext
	if sc == nil {
		return
	}
	lookUp := false
	if uid, ok := b.podID(sc.RunAsUser, "runAsUser"); ok {
		u.UID, lookUp = uid, true
	}
	if gid, ok := b.podID(sc.RunAsGroup, "runAsGroup"); ok {
		u.GID, lookUp = gid, false
		*gids = gidSet{gid}
	}
	if lookUp {
		u.GID, _ = t.gidOf(u.UID)
		*gids = gidSet{u.GID}
	}
	if b.pause && (b.img.User != "" || sc.RunAsUser != nil || sc.RunAsGroup != nil) {
		return
	}
	if gid, ok := b.podID(sc.FSGroup, "fsGroup"); ok {
		gids.add(gid)
	}
	for _, gid := range sc.SupplementalGroups {
		gids.add(gid)
	}
}

func (b *builder) podID(n *int64, field string) (uint32, bool) {
	others := len(b.w.pod.Containers)+len(b.w.pod.InitContainers) > 0
	if n != nil && b.pause && others && (*n < 0 || *n > math.MaxUint32) {
		return 0, false // reported for the containers
	}
	if n == nil {
		return 0, false
	}
	if *n < 0 || *n > math.MaxUint32 {
		b.w.fail("securityContext."+field, Type, "%d is no user or group id: want 0 to %d", *n, uint32(math.MaxUint32))
		return 0, false
	}
	return uint32(*n), true
}

func (b *builder) containerUser(t *userTables, u *User, gids *gidSet) {
	sc := b.c.SecurityContext
	if sc == nil {
		return
	}
	if uid, ok := b.id(sc.RunAsUser, "securityContext.runAsUser"); ok {
		u.UID = uid
		if gid, found := t.gidOf(uid); found {
			u.GID = gid
		}
		gids.add(u.GID)
	}
	if gid, ok := b.id(sc.RunAsGroup, "securityContext.runAsGroup"); ok {
		u.GID = gid
		gids.add(gid)
	}
}

// memberships adds the groups that list the user, except the one that bears
// the user's own name.
func (b *builder) memberships(t *userTables, u User, gids *gidSet) {
	name := ""
	found := false
	for _, r := range t.users() {
		if r.uid == u.UID {
			name, found = r.name, true
			break
		}
	}
	if !found {
		return
	}
	for _, g := range t.groups() {
		if g.name != name && slices.Contains(g.members, name) {
			gids.add(g.gid)
		}
	}
}

// guestPull refuses ids that the guest cannot be relied on to reproduce: those
// that come from the image although the guest pulls it.
func (b *builder) guestPull(u User) {
	if b.pause || !b.set.ClusterConfig.GuestPull || !b.profile.GuestPullCheck {
		return
	}
	stated := func(container, pod *int64, id uint32) bool {
		if container == nil {
			container = pod
		}
		return id == 0 || container != nil && *container == int64(id)
	}
	var cUser, cGroup, pUser, pGroup *int64
	var groups gidSet
	if sc := b.c.SecurityContext; sc != nil {
		cUser, cGroup = sc.RunAsUser, sc.RunAsGroup
	}
	groups.add(u.GID)
	if sc := b.w.pod.SecurityContext; sc != nil {
		pUser, pGroup = sc.RunAsUser, sc.RunAsGroup
		for _, g := range sc.SupplementalGroups {
			groups.add(g)
		}
		if sc.FSGroup != nil && *sc.FSGroup >= 0 && *sc.FSGroup <= math.MaxUint32 {
			groups.add(uint32(*sc.FSGroup))
		}
	}
	var missing []string
	if !stated(cUser, pUser, u.UID) {
		missing = append(missing, fmt.Sprintf("runAsUser: %d", u.UID))
	}
	if !stated(cGroup, pGroup, u.GID) {
		missing = append(missing, fmt.Sprintf("runAsGroup: %d", u.GID))
	}
	var extra []string
	for _, g := range u.AdditionalGids {
		if !slices.Contains(groups, g) {
			extra = append(extra, strconv.FormatUint(uint64(g), 10))
		}
	}
	if len(extra) > 0 {
		missing = append(missing, "supplementalGroups: ["+strings.Join(extra, ", ")+"]")
	}
	if len(missing) > 0 {
		b.fail("", GuestPull, "user %d, group %d and groups %v come from the image, which the guest pulls itself and may read differently", u.UID, u.GID, u.AdditionalGids)
		b.w.hint("state them in securityContext: %s", strings.Join(missing, ", "))
	}
}
