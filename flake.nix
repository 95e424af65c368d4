{
  description = "retally recounts the measurements of a confidential AI deployment from public inputs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = f: lib.genAttrs systems (system: f system (import nixpkgs { inherit system; }));
    in
    {
      packages = forEach (
        _: pkgs: rec {
          retally = pkgs.callPackage ./nix/package.nix { };
          image = pkgs.callPackage ./nix/image.nix { inherit retally; };
          default = retally;
        }
      );

      apps = forEach (
        system: _: {
          default = {
            type = "app";
            program = lib.getExe self.packages.${system}.retally;
          };
        }
      );

      checks = forEach (
        system: pkgs: {
          package = self.packages.${system}.retally;
          demo = pkgs.callPackage ./nix/check-demo.nix { inherit (self.packages.${system}) retally; };
          image = pkgs.callPackage ./nix/check-image.nix { inherit (self.packages.${system}) retally image; };
        }
      );

      devShells = forEach (
        _: pkgs: {
          default = pkgs.mkShell {
            packages = [
              pkgs.go
              pkgs.skopeo
              pkgs.jq
            ];
          };
        }
      );
    };
}
