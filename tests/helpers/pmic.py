"""What the power management chip of a Raspberry Pi 5 tells.

The answer of ``vcgencmd pmic_read_adc`` was recorded on an idle Raspberry Pi 5, and stands in
https://github.com/bakerkj/ha-pi5-power-monitor (tests/conftest.py). That twelve of its rails have a
current and a voltage, and two have no current, is also found in
https://github.com/ml-energy/zeus/issues/273.
"""

from __future__ import annotations

PMIC = """\
3V7_WL_SW_A current(0)=0.00195186A
   3V3_SYS_A current(1)=0.12589500A
   1V8_SYS_A current(2)=0.23129540A
  DDR_VDD2_A current(3)=0.00000000A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.18835450A
    0V8_SW_A current(6)=0.30644200A
  VDD_CORE_A current(7)=0.82156000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00000000A
   0V8_AON_A current(16)=0.00311355A
      HDMI_A current(22)=0.00036630A
 3V7_WL_SW_V volt(8)=3.70720000V
   3V3_SYS_V volt(9)=3.30260900V
   1V8_SYS_V volt(10)=1.81294100V
  DDR_VDD2_V volt(11)=1.10732500V
  DDR_VDDQ_V volt(12)=0.60183090V
   1V1_SYS_V volt(13)=1.10622600V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.81203820V
   3V3_DAC_V volt(20)=3.30952000V
   3V3_ADC_V volt(21)=3.31226800V
   0V8_AON_V volt(19)=0.79912020V
      HDMI_V volt(23)=5.12416000V
     EXT5V_V volt(24)=5.13756000V
      BATT_V volt(25)=0.00000000V
"""

PMIC_W = 1.9678110
"""By hand, rail by rail: 0.0072359 + 0.4157820 + 0.4193249 + 0 + 0 + 0.2083626 + 0.2456023 +
0.6671381 + 0 + 0 + 0.0024881 + 0.0018770, without EXT5V and BATT."""
