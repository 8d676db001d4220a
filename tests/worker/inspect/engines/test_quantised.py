from worker.inspect.backbone import digest_of
from worker.inspect.engines.openvino_engine import read_graph
from worker.inspect.engines.quantised import write_quantised_graph


def test_a_graph_gives_the_same_file_whatever_the_process_did_before(backbone_file, tmp_path):
    written = []
    for name in ("first", "second"):
        graph = read_graph(backbone_file, sha256=digest_of(backbone_file))
        write_quantised_graph(graph, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
