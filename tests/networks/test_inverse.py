"""The overlap-add of GPUs against torch.istft."""

import pytest
import torch

from davss.networks.inverse import inverse_stft


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(("n_fft", "hop"), [(510, 256), (510, 128), (512, 128), (64, 16)])
@pytest.mark.parametrize("length", [511, 2048, 2100, 2303])
def test_a_gpu_adds_up_what_torch_does(n_fft, hop, length):
    torch.manual_seed(0)
    window = torch.hann_window(n_fft, dtype=torch.float64)
    signal = torch.randn(2, length, dtype=torch.float64)
    z = torch.stft(signal, n_fft, hop, window=window, return_complex=True)
    z = z * torch.rand(z.shape)  # not the spectrogram of any signal
    expected = inverse_stft(z, hop, window, length)
    found = inverse_stft(z.as_subclass(OnGpu), hop, window, length).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
