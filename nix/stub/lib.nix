# The functions of nixpkgs' lib that this flake calls, with the same meaning.
rec {
  genAttrs =
    names: f:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );

  removeSuffix =
    suffix: s:
    let
      keep = builtins.stringLength s - builtins.stringLength suffix;
    in
    if keep >= 0 && builtins.substring keep (-1) s == suffix then builtins.substring 0 keep s else s;

  optionalString = cond: s: if cond then s else "";

  getExe = drv: "${drv}/bin/${drv.meta.mainProgram}";

  licenses.asl20.spdxId = "Apache-2.0";

  # A file set is here a predicate on absolute paths as strings. A path stands
  # for itself and everything below it, as in nixpkgs, which also refuses a
  # path that does not exist unless maybeMissing allows it.
  fileset =
    let
      below = path: p: p == path || builtins.substring 0 (builtins.stringLength path + 1) p == path + "/";
      set =
        x:
        if builtins.isFunction x then
          x
        else if builtins.pathExists x then
          below (toString x)
        else
          throw "fileset: ${toString x} does not exist";
    in
    {
      maybeMissing = path: below (toString path);
      union = a: b: p: set a p || set b p;
      unions = xs: p: builtins.any (x: set x p) xs;
      difference = a: b: p: set a p && !(set b p);
      toSource =
        { root, fileset }:
        let
          has = set fileset;
          # A folder is kept for what is in it.
          keep =
            path: type:
            if type == "directory" then
              builtins.any (n: keep "${path}/${n.name}" n.type) (entries path)
            else
              has path;
          entries =
            path:
            let
              dir = builtins.readDir (root + removePrefix (toString root) path);
            in
            map (name: {
              inherit name;
              type = dir.${name};
            }) (builtins.attrNames dir);
        in
        builtins.path {
          name = "source";
          path = root;
          filter = keep;
        };
    };

  removePrefix =
    prefix: s:
    let
      n = builtins.stringLength prefix;
    in
    if builtins.substring 0 n s == prefix then builtins.substring n (-1) s else s;
}
