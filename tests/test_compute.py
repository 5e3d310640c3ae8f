"""start_cluster: each kind starts or says in one sentence why not, and closing leaves nothing behind."""

import contextlib
import gc
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from astrolab.compute import KINDS, check_cluster, gpu_names, start_cluster, why_not_gpu, why_not_memory


def _threads_of_libraries():
    import torch

    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}, torch.get_num_threads()


def _ends_within(pid, seconds):
    for _ in range(10 * seconds):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_cpu_workers_are_processes_of_one_thread_that_closing_ends():
    n_threads, environ = threading.active_count(), dict(os.environ)
    client = start_cluster("cpu", n_workers=1)
    assert os.environ == environ  # what is loaded here later has all threads
    (pid,) = client.run(os.getpid).values()
    assert pid != os.getpid()
    assert list(client.nthreads().values()) == [1]
    environ, n_torch = client.submit(_threads_of_libraries).result(timeout=60)
    assert environ == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert n_torch == 1
    assert "Client" in client._repr_html_()

    client.close()
    assert client.cluster.status.name == "closed"
    assert _ends_within(pid, seconds=5)
    gc.collect()  # a ResourceWarning would be an error here
    assert threading.active_count() <= n_threads + 1


def test_default_is_one_worker_a_core_and_two_clusters_live_side_by_side():
    from dask.system import CPU_COUNT

    with start_cluster("cpu", n_workers=1) as first:
        if CPU_COUNT <= 4:
            with start_cluster("auto" if not gpu_names() else "cpu") as second:
                assert len(second.nthreads()) == CPU_COUNT
                assert second.dashboard_link != first.dashboard_link
        assert first.submit(sum, [1, 2]).result(timeout=30) == 3


def test_an_address_joins_and_leaves_the_cluster_running():
    with start_cluster("cpu", n_workers=1) as owner:
        address = owner.scheduler.address
        with start_cluster(address) as guest:
            assert guest.submit(sum, [1, 2]).result(timeout=30) == 3
        assert owner.submit(sum, [3, 4]).result(timeout=30) == 7
        with pytest.raises(ValueError, match="leave n_workers out"):
            start_cluster(address, n_workers=3)


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr("astrolab.compute.clients.CONNECT_SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 within 1 s"):
        start_cluster("tcp://127.0.0.1:9")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\nnothing of Dask's", None], ids=["http", "silent"])
def test_what_answers_is_no_scheduler(monkeypatch, answer):
    monkeypatch.setattr("astrolab.compute.clients.CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        done = threading.Event()
        stranger = threading.Thread(target=_answer, args=(server, answer, done))
        stranger.start()
        try:
            with pytest.raises(ConnectionError, match=address):
                check_cluster(address)
        finally:
            done.set()
            stranger.join()


def _answer(server, answer, done):
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        if answer is not None:
            connection.sendall(answer)
        done.wait(60)


def test_a_check_leaves_a_cluster_that_runs_running():
    with start_cluster("cpu", n_workers=1) as owner:
        check_cluster(owner.scheduler.address)
        assert owner.submit(sum, [1, 2]).result() == 3
        with pytest.raises(ValueError, match="leave n_workers out"):
            check_cluster(owner.scheduler.address, n_workers=3)


@pytest.mark.parametrize("kind", ["nonsense://x:1", "tcp://127.0.0.1:port", "gpus", "", None])
def test_wrong_kind(kind):
    with pytest.raises(ValueError, match="start_cluster got") as caught:
        start_cluster(kind)
    with pytest.raises(ValueError, match="start_cluster got"):
        check_cluster(kind)
    assert "tcp://host:port" in str(caught.value)
    if "://" not in str(kind):
        assert all(repr(known) in str(caught.value) for known in KINDS)


@pytest.mark.parametrize("n_workers", [0, -1])
def test_no_workers(n_workers):
    with pytest.raises(ValueError, match="at least 1"):
        start_cluster("cpu", n_workers=n_workers)


@pytest.mark.parametrize(("kind", "module", "extra"), [("gpu", "dask_cuda", "gpu"), ("gateway", "dask_gateway", "hub")])
def test_a_missing_library_is_named_with_its_extra(kind, module, extra):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed here")
    with pytest.raises(ImportError, match=rf'pip install "astrolab-research\[{extra}\]"'):
        start_cluster(kind)


def test_gpus_can_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_names() == []
    assert why_not_gpu() is not None


def test_a_gpu_with_too_little_memory_is_said():
    reason = why_not_memory([16 << 30, 400 << 20])
    assert reason.startswith('start_cluster(kind="gpu") finds 0.4 GiB free on GPU 1, expected at least 2 GiB; end what')
    assert why_not_memory([2 << 30]) is None


@pytest.mark.parametrize(
    ("options", "config", "reason"),
    [({"memory_limit": "lots"}, {}, "lots"), ({}, {"temporary-directory": "/proc/nowhere"}, "/proc/nowhere")],
    ids=["memory", "folder"],
)
def test_a_cluster_that_cannot_start_is_said(options, config, reason):
    import dask

    with dask.config.set(config), pytest.raises(ConnectionError) as caught:
        start_cluster("cpu", n_workers=1, **options)
    assert str(caught.value).startswith("no Dask cluster can be started on this machine: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_gpu_cluster_has_a_worker_a_gpu():
    if why_not_gpu():
        pytest.skip(why_not_gpu())
    with start_cluster("gpu") as client:
        assert len(client.nthreads()) == len(gpu_names())


def test_a_client_that_nobody_closes_ends_with_its_process(tmp_path):
    script = "from astrolab.compute import start_cluster\nclient = start_cluster('cpu', n_workers=1)\n"
    script += "print(client.submit(sum, [1, 2]).result())\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_workers_without_astrolab_or_with_another_version_are_refused(tmp_path):
    from distributed import LocalCluster

    for has in ("has no astrolab-research", "has astrolab-research 0.0.1"):
        code = "import importlib.metadata as m\n"
        code += "def version(name):\n    "
        code += "raise m.PackageNotFoundError\n" if "no" in has else "return '0.0.1'\n"
        (tmp_path / "preload.py").write_text(code + "m.version = version\n")
        preload = {"preload": [str(tmp_path / "preload.py")]}
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", **preload) as made:
            with pytest.raises(ValueError, match=f"{has}, expected") as caught:
                start_cluster(made.scheduler_address)
            assert 'pip install "astrolab-research==' in str(caught.value)


def test_the_link_leads_through_a_hub(monkeypatch):
    import dask

    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    plain = {"distributed.dashboard.link": "{scheme}://{host}:{port}/status"}
    with dask.config.set(plain), start_cluster("cpu", n_workers=1) as client:
        assert re.fullmatch(r"/user/ada/proxy/\d+/status", client.dashboard_link)


# a real Dask Gateway on loopback

GATEWAY = """
import sys
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.address = "127.0.0.1:{api}"
c.Proxy.address = "127.0.0.1:{proxy}"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "right"
c.UnsafeLocalBackend.clusters_directory = "{folder}"
c.UnsafeLocalBackend.inherited_environment = ["PATH", "PYTHONPATH", "HOME"]
c.ClusterConfig.scheduler_cmd = [sys.executable, "-m", "dask", "scheduler"]
c.ClusterConfig.worker_cmd = [sys.executable, "-m", "dask", "worker"]
c.ClusterConfig.idle_timeout = 120
c.ClusterConfig.cluster_max_workers = 1
"""


def _free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    """Address of a gateway that starts clusters as processes of this machine."""
    if not importlib.util.find_spec("dask_gateway") or not importlib.util.find_spec("dask_gateway_server"):
        pytest.skip('no Dask Gateway here: pip install dask-gateway "dask-gateway-server[local]"')
    proxy, api = _free_ports(2)
    (tmp_path / "clusters").mkdir()
    config = tmp_path / "config.py"
    config.write_text(GATEWAY.format(api=api, proxy=proxy, folder=tmp_path / "clusters"))
    command = [Path(sys.executable).parent / "dask-gateway-server", "--config", config]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(OSError):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{proxy}/api/v1/options", timeout=5)
                except urllib.error.HTTPError as error:
                    if error.code != 404:  # it asks who we are: the proxy knows the way to the gateway
                        break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{proxy}"
    finally:
        server.terminate()
        server.wait(30)


ASK = """
import sys
from astrolab.compute import start_cluster

try:
    with start_cluster("gateway", n_workers=1) as client:
        print(client.submit(sum, [1, 2]).result(timeout=60), client.dashboard_link)
except ConnectionError as error:
    sys.exit(str(error))
"""


def ask_gateway(address, password):
    """Ask as a run does: in a process of its own, which is told by its environment."""
    auth = {"DASK_GATEWAY__AUTH__TYPE": "basic", "DASK_GATEWAY__AUTH__KWARGS__USERNAME": "ada"}
    auth |= {"DASK_GATEWAY__AUTH__KWARGS__PASSWORD": password, "DASK_GATEWAY__ADDRESS": address}
    return subprocess.run([sys.executable, "-c", ASK], env=os.environ | auth, capture_output=True, text=True)


def test_a_gateway_gives_a_cluster_refuses_strangers_and_may_not_be_there(gateway):
    given = ask_gateway(gateway, "right")
    assert given.returncode == 0, given.stderr
    assert given.stdout.startswith(f"3 {gateway}/clusters/")
    refused = ask_gateway(gateway, "wrong")
    assert refused.returncode == 1
    assert f"the Dask Gateway at {gateway} refuses a cluster: " in refused.stderr
    nobody = ask_gateway("http://127.0.0.1:9", "right")
    assert nobody.returncode == 1
    assert nobody.stderr.startswith("no Dask Gateway answers at http://127.0.0.1:9: ask its operator")
