{
  lib,
  stdenv,
  buildGoModule,
  installShellFiles,
}:

let
  fs = lib.fileset;
in
buildGoModule {
  pname = "retally";
  version = lib.removeSuffix "\n" (builtins.readFile ../VERSION);

  # Everything that a Go package, a go:embed or a test may want. What is left
  # out can be edited without a rebuild and holds no Go file, so that the
  # vendored modules are the same with and without it.
  src = fs.toSource {
    root = ../.;
    fileset = fs.union (fs.maybeMissing ../docs/man) (
      fs.difference ../. (
        fs.unions (
          map fs.maybeMissing [
            ../.ci
            ../.git
            ../.github
            ../.gitignore
            ../dist
            ../docs
            ../flake.lock
            ../flake.nix
            ../nix/check-demo.nix
            ../nix/package.nix
            ../nix/stub
            ../result
            ../retally
          ]
        )
      )
    );
  };

  # Written by scripts/vendorhash --write; recomputed by nix/vendorhash_test.go.
  vendorHash = "sha256-u2dgu9DS7ipeS5lt44HO5fqneYmfONYnKL0o2uMvElc=";

  env.CGO_ENABLED = 0;
  subPackages = [ "cmd/retally" ];
  ldflags = [
    "-s"
    "-w"
    "-X main.version=${lib.removeSuffix "\n" (builtins.readFile ../VERSION)}"
  ];

  # subPackages narrows the tests to those of the command, which want the whole
  # checkout and the tools they compare with. All tests run in CI; the built
  # program is tried by the flake's own checks.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall =
    ''
      for page in docs/man/*.1; do
        if [ -e "$page" ]; then
          installManPage "$page"
        fi
      done
    ''
    + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
      for shell in bash fish zsh; do
        $out/bin/retally completion $shell > retally.$shell
      done
      installShellCompletion --cmd retally \
        --bash retally.bash --fish retally.fish --zsh retally.zsh
    '';

  meta = {
    description = "Recount the measurements of a confidential AI deployment from public inputs";
    homepage = "https://github.com/retally/retally";
    license = lib.licenses.asl20;
    mainProgram = "retally";
  };
}
