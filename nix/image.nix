# The container image: the program alone, at its path in the store. Its times are
# those of the epoch, so that the same inputs give the same bytes.
{ dockerTools, retally }:

dockerTools.buildLayeredImage {
  name = "retally";
  tag = retally.version;
  contents = [ retally ];
  config = {
    Entrypoint = [ "${retally}/bin/retally" ];
  };
}
